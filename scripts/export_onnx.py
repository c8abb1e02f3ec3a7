"""Writes an agent as an ONNX graph, which decides without torch and without this project.

    python scripts/export_onnx.py ppo/llama-steady-s0 router.onnx --replicas 8
    python scripts/export_onnx.py results/train/llama_steady-s0/best.pt router.onnx --replicas 8

docs/agents.md says what goes in and what comes out; examples/router.py serves it. Needs the extras train and export.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ is of the checkout, and not installed

from pecgym.errors import PecGymError

try:
    from agents.checkpoint import load_agent
    from agents.export import export
except ImportError as error:
    sys.exit(f"error: {error}: agents need pip install -e '.[train]'")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", help="name of a shipped agent, or the path of a file that was trained")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--replicas", type=int, required=True, help="of the cluster that it is to serve")
    args = parser.parse_args(arguments)
    try:
        agent = load_agent(args.agent)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        export(agent, args.replicas, args.out)
    except (PecGymError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{agent.name} for {args.replicas} replicas: {args.out}, {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
