"""Small tasks of lm-evaluation-harness over a local file, one of each kind."""

import json
from pathlib import Path

ROWS = [
    {"question": "The cat sat on the", "choices": [" mat", " moon", " sea"], "answer": 0, "text": "one two " * 30},
    {"question": "Rain falls from the", "choices": [" sky", " sea", " cat"], "answer": 0, "text": "a short one"},
    {"question": "Wie geht", "choices": [" es", " ü", " und so weiter"], "answer": 1, "text": "déjà vu"},
]
TASK = """
task: local_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
{rest}
"""
TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "writing": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
""",
}


def write_tasks(folder: Path) -> None:
    """Write the rows, and the tasks ``local_choice``, ``local_rolling`` and ``local_writing`` over them."""
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    for name, rest in TASKS.items():
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, rows=rows, rest=rest))
