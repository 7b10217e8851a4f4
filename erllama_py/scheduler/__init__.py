"""One model's requests as a pure machine: which gets a sequence and cells, what its prompt starts from, what is saved.

    event ─▶ machine.transition(state, event, now) ─▶ (state, effects)      the actor carries the effects out

    Submit ─▶ Waiting ──place──▶ Looking ──Found──▶ Restoring ──rows are in──▶ Working ──Finished──▶ over
                │                   ▲                                             │
             (queue)   Following ───┘ its leader's row is saved                   │ no cells, or an equal's turn
                                                                                  ▼
                                    Looking ◀──place── Parked ◀──Parked── Parking

As many requests are at work as there are sequences and cells; the others wait by priority. No clock, no thread, no
await. Doors: `machine`, `messages`, `state`, `stages`, and `reuse` for what a prompt could start from. From the top:

- `machine`, `outcomes`: what each event does to the request that it is about, from callers and from the engine
- `scheduling`: which requests get sequences and cells; `placing`: where one goes; `preempt`: which is parked for it
- `sharing`, `starting`: how requests follow one that computes what they begin with, and how each starts
- `idle`: what becomes of idle sequences: eviction, sessions, saving all
- `state`, `stages`, `queue`, `cells`: the state as data
- `reuse`: what a prompt can start from; `messages`: what goes in and comes out
"""
