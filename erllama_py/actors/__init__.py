"""A small OTP on asyncio: mailboxes, actors, names and supervisors that know nothing of what they run.

What it promises, and its tests hold it to, also under cancellation at each await: started means ready; a call ends
when the callee ends, with the cause; the first error is the one you see; mailboxes are bounded and say when full; a
name is free before its owner's restart begins; a restart makes a new actor with new state.
"""

from __future__ import annotations

from erllama_py.actors.actor import Actor, Answer, Stop, actor_child
from erllama_py.actors.background import Background
from erllama_py.actors.child import ChildFailure, ChildSpec, ChildState, Restart
from erllama_py.actors.clock import Clock, MonotonicClock
from erllama_py.actors.dynamic import DynamicSupervisor
from erllama_py.actors.errors import (
    ActorEnded,
    ActorError,
    CallTimeout,
    MailboxClosed,
    MailboxFull,
    NameNotFound,
    NameTaken,
    RestartLimitReached,
    SelfCall,
    StopTimeout,
    SupervisorClosed,
    UnexpectedCancel,
)
from erllama_py.actors.exits import Exit, Raised, Returned, Stopped, describe
from erllama_py.actors.home import Home, WrongLoop
from erllama_py.actors.keeper import Keeper
from erllama_py.actors.mailbox import Mailbox, MailboxStatistics
from erllama_py.actors.names import NameChange, Names
from erllama_py.actors.ref import ActorRef
from erllama_py.actors.replies import Reply
from erllama_py.actors.restart_budget import GiveUp, RestartAfter, RestartLimits, decide
from erllama_py.actors.root import Tree
from erllama_py.actors.running import Runnable, function_child, settle
from erllama_py.actors.snapshot import TreeNode
from erllama_py.actors.state_machine import StateMachine
from erllama_py.actors.strategy import Strategy, affected_children
from erllama_py.actors.supervisor import Supervisor
from erllama_py.actors.threads import Threads

__all__ = [
    "Actor",
    "ActorEnded",
    "ActorError",
    "ActorRef",
    "Answer",
    "Background",
    "CallTimeout",
    "ChildFailure",
    "ChildSpec",
    "ChildState",
    "Clock",
    "DynamicSupervisor",
    "Exit",
    "GiveUp",
    "Home",
    "Keeper",
    "Mailbox",
    "MailboxClosed",
    "MailboxFull",
    "MailboxStatistics",
    "MonotonicClock",
    "NameChange",
    "NameNotFound",
    "NameTaken",
    "Names",
    "Raised",
    "Reply",
    "Restart",
    "RestartAfter",
    "RestartLimitReached",
    "RestartLimits",
    "Returned",
    "Runnable",
    "SelfCall",
    "StateMachine",
    "Stop",
    "StopTimeout",
    "Stopped",
    "Strategy",
    "Supervisor",
    "SupervisorClosed",
    "Threads",
    "Tree",
    "TreeNode",
    "UnexpectedCancel",
    "WrongLoop",
    "actor_child",
    "affected_children",
    "decide",
    "describe",
    "function_child",
    "settle",
]
