"""What the specification in plain code knows of a request and of a replica."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.naive_groups import Group


@dataclass(eq=False)
class Request:
    """One request: what it needs, and what has been done for it."""

    row: int
    arrival: int
    input: int
    output: int
    rank: int  # the output length that order rules may read
    tail: int = 0  # the mean of the worst tenth of what was predicted
    prediction: int = 0  # the time that the prediction takes
    is_long: bool = False
    replica: int = -1
    decode_replica: int = -1  # where a short is to decode, if elsewhere
    degree: int = 1
    preemptions: int = 0
    preempts: bool = False  # a short that stops a long as soon as it could run beside it
    pushed: int = -1  # when its KV cache had arrived there
    placed: int = -1
    start: int = -1
    first_token: int = -1
    finish: int = -1
    prompt: int = 0  # tokens that prefill must compute: input, plus tokens emitted before an eviction
    computed: int = 0  # KV tokens held
    emitted: int = 0
    leave_at: int = 0  # emitted tokens at which it leaves the batch
    decoding: bool = False
    swapped: bool = False
    from_push: bool = False  # waits where it will decode, its KV in that replica's host memory
    reserved: int = 0  # KV tokens that admission set aside
    admission: int = 0
    evictions: int = 0
    recomputed: int = 0
    waits_from: int | None = None  # order ltr: the step at which it was first seen to wait here
    promoted: int = 0  # for how many iterations of its own it goes before the others
    key: tuple[int, int] = (0, 0)  # place in the queue that it is in
    sequence: int = 0


@dataclass(eq=False)
class Replica:
    """One replica: who waits, who is resident, and the iteration that is running."""

    index: int
    role: str = "general"
    next_role: str = ""  # what it becomes once it is empty
    group: Group | None = None  # the long request that it serves
    pushing: list[Request] = field(default_factory=list)  # prefilled here, KV on its way
    incoming: int = 0  # placed requests that will decode here and are elsewhere yet
    waiting: list[Request] = field(default_factory=list)
    prefills: list[Request] = field(default_factory=list)  # residents whose prompt is incomplete, oldest first
    decodes: list[Request] = field(default_factory=list)
    iteration_start: int = 0
    iteration_end: int | None = None
    last_iteration: tuple[int, int] = (-1, -1)  # start and end of the last one that ended, not beside a long
    seen_until: int = 0  # who was placed after that is not known to the batch that is being composed
    chunks: dict[Request, int] = field(default_factory=dict)  # prompt tokens in the running iteration
    with_decodes: bool = False
    held_back: int = 0  # iterations in which prompts were held back since some last joined decodes
    gathering_until: int | None = None  # static batching
    swapped_tokens: int = 0  # moved to or from host memory for the iteration being composed
    admissions: int = 0
    busy: int = 0
    prefill_busy: int = 0  # of it, in iterations with prompt tokens
    iterations: int = 0
    kv_token_ps: int = 0  # KV tokens held in iterations apart from those beside a long, x their time
    finished: list[Request] = field(default_factory=list)

    @property
    def residents(self) -> list[Request]:
        return self.decodes + self.prefills

    @property
    def n_requests(self) -> int:
        return len(self.waiting) + len(self.residents)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens placed here and not yet computed."""
        return sum(q.prompt - q.computed for q in self.waiting + self.prefills if not q.decoding)

    def work(self, duration: int, prompt_tokens: bool) -> None:
        """It has been, or will be, busy for `duration` more; prompt_tokens: with prompt tokens in its iterations."""
        self.busy += duration
        if prompt_tokens:
            self.prefill_busy += duration
