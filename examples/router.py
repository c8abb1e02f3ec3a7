"""Routes requests by an exported agent: a line of JSON with the state of the cluster in, one with the decision out.

    python scripts/export_onnx.py ppo/llama-steady-s0 router.onnx --replicas 8
    python examples/router.py router.onnx < states.jsonl

docs/agents.md has the format. Needs: pip install onnxruntime, and neither torch nor pecgym.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime


class Router:
    """Decides as the agent of a file of scripts/export_onnx.py."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a network this small only loses by more
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["pecgym"])

    def decide(self, state: dict[str, Any]) -> dict[str, Any]:
        """The decision about a state. Raises ValueError for a state that cannot be."""
        if unknown := set(state) - set(self.about["rows"]) - {"valid"}:
            raise ValueError(f"{', '.join(sorted(unknown))}: no such table")
        arrays = {table: self.array(table, state.get(table, [])) for table in self.about["rows"]}
        (action,), *_ = self.session.run(["action"], {**arrays, "mask": self.mask(state.get("valid", {}))})
        chosen = {name: values[i] for i, (name, values) in zip(action, self.about["values"].items(), strict=True)}
        decision = next((name for name in self.about["read"] if state["request"].get(name)), None)
        if decision is None:
            raise ValueError(f"request: one of {', '.join(self.about['read'])} must be 1")
        return {"wait": True} if chosen["target"] == "wait" else {k: chosen[k] for k in self.about["read"][decision]}

    def array(self, table: str, rows: Any) -> Any:
        """float32[1, rows x features]; what is missing is 0."""
        n, names = self.about["rows"][table], self.about["features"][table]
        rows = [rows] if isinstance(rows, dict) else rows
        if len(rows) > n or (table == "replicas" and len(rows) < n):
            raise ValueError(f"{table}: {len(rows)} rows, and the agent was exported for {n}")
        found = np.zeros((n, len(names)), np.float32)
        for i, row in enumerate(rows):
            for name, value in row.items():
                if name not in names or not 0 <= value <= 1:
                    raise ValueError(f"{table}[{i}].{name}={value}: no such feature, or not scaled to 0 to 1")
                found[i, names.index(name)] = value
        return found.reshape(1, -1)

    def mask(self, valid: dict[str, list[Any]]) -> Any:
        """bool[1, M]; of a component that is missing, only the first value is valid."""
        if unknown := set(valid) - set(self.about["values"]) or {"target"} - set(valid):
            raise ValueError(f"valid: {', '.join(sorted(unknown))}: target must be there, and only components may be")
        parts = []
        for name, values in self.about["values"].items():
            allowed = valid.get(name, values[:1])
            if not allowed or not all(each in values for each in allowed):
                raise ValueError(f"valid.{name}={allowed}: give one or more of {values}")
            parts += [value in allowed for value in values]
        return np.array([parts])


def main() -> None:
    """Answers every line of the standard input."""
    router = Router(sys.argv[1])
    for line in sys.stdin:
        try:
            answer = router.decide(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # of one line: the next may be right
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
