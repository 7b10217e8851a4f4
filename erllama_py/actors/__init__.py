"""A small OTP on asyncio: mailboxes, actors, names and supervisors that know nothing of what they run.

What it promises, also under cancellation at any await (its tests check all of it): started means ready; a call ends
when the callee ends, with the cause; the first error is the one you see; mailboxes are bounded and say when full; a
name is free before its owner's restart begins; a restart makes a new actor with new state.
"""

from __future__ import annotations

from erllama_py.actors.actor import Actor as Actor
from erllama_py.actors.actor import ActorRun as ActorRun
from erllama_py.actors.actor import Answer as Answer
from erllama_py.actors.actor import StateMachine as StateMachine
from erllama_py.actors.actor import Stop as Stop
from erllama_py.actors.background import Background as Background
from erllama_py.actors.child import ChildFailure as ChildFailure
from erllama_py.actors.child import ChildSpec as ChildSpec
from erllama_py.actors.child import Restart as Restart
from erllama_py.actors.child import TreeNode as TreeNode
from erllama_py.actors.clock import Clock as Clock
from erllama_py.actors.clock import MonotonicClock as MonotonicClock
from erllama_py.actors.dynamic import DynamicSupervisor as DynamicSupervisor
from erllama_py.actors.errors import ActorEnded as ActorEnded
from erllama_py.actors.errors import ActorError as ActorError
from erllama_py.actors.errors import CallTimeout as CallTimeout
from erllama_py.actors.errors import MailboxClosed as MailboxClosed
from erllama_py.actors.errors import NameNotFound as NameNotFound
from erllama_py.actors.errors import NameTaken as NameTaken
from erllama_py.actors.errors import RestartLimitReached as RestartLimitReached
from erllama_py.actors.errors import StopTimeout as StopTimeout
from erllama_py.actors.errors import SupervisorClosed as SupervisorClosed
from erllama_py.actors.exits import Exit as Exit
from erllama_py.actors.exits import Raised as Raised
from erllama_py.actors.exits import Returned as Returned
from erllama_py.actors.exits import Stopped as Stopped
from erllama_py.actors.exits import describe as describe
from erllama_py.actors.exits import text_of as text_of
from erllama_py.actors.home import Home as Home
from erllama_py.actors.home import WrongLoop as WrongLoop
from erllama_py.actors.keeper import Keeper as Keeper
from erllama_py.actors.names import NameChange as NameChange
from erllama_py.actors.names import Names as Names
from erllama_py.actors.ref import ActorRef as ActorRef
from erllama_py.actors.replies import Reply as Reply
from erllama_py.actors.restart_budget import RestartLimits as RestartLimits
from erllama_py.actors.restart_budget import Strategy as Strategy
from erllama_py.actors.root import Tree as Tree
from erllama_py.actors.running import FunctionRun as FunctionRun
from erllama_py.actors.running import Runnable as Runnable
from erllama_py.actors.running import settle as settle
from erllama_py.actors.running import wait_any as wait_any
from erllama_py.actors.supervisor import Supervisor as Supervisor
from erllama_py.actors.threads import Threads as Threads
from erllama_py.actors.threads import ThreadsClosed as ThreadsClosed
