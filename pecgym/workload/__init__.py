"""What arrives: traces, readers, the embedded generator, closed loops and long-context rewrites."""

from pecgym.workload.arrivals import fixed, gamma, poisson, with_arrivals
from pecgym.workload.chat import draw_chat
from pecgym.workload.closed_loop import ClosedLoop
from pecgym.workload.fetch import REGISTRY, PublicTrace, cached_trace, fetch_trace
from pecgym.workload.generator import generate, generate_chunks, generator_names
from pecgym.workload.load import load_trace
from pecgym.workload.long_context import rewrite_linear, rewrite_long, rewrite_paper, rewrite_rank
from pecgym.workload.offline import draw_offline, offline
from pecgym.workload.prompts import Prompts, read_prompts
from pecgym.workload.readers import (
    read_azure,
    read_burstgpt,
    read_mooncake,
    read_parquet,
    read_plain_csv,
    read_plain_jsonl,
    read_trace,
    read_vidur,
    stream_trace,
)
from pecgym.workload.statistics import index_of_dispersion, interarrival_cv
from pecgym.workload.streams import merge_chunks
from pecgym.workload.trace import Trace

__all__ = [
    "REGISTRY",
    "ClosedLoop",
    "Prompts",
    "PublicTrace",
    "Trace",
    "cached_trace",
    "draw_chat",
    "draw_offline",
    "fetch_trace",
    "fixed",
    "gamma",
    "generate",
    "generate_chunks",
    "generator_names",
    "index_of_dispersion",
    "interarrival_cv",
    "load_trace",
    "merge_chunks",
    "offline",
    "poisson",
    "read_azure",
    "read_burstgpt",
    "read_mooncake",
    "read_parquet",
    "read_plain_csv",
    "read_plain_jsonl",
    "read_prompts",
    "read_trace",
    "read_vidur",
    "rewrite_linear",
    "rewrite_long",
    "rewrite_paper",
    "rewrite_rank",
    "stream_trace",
    "with_arrivals",
]
