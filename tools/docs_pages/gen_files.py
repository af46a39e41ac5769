"""Run by mkdocs-gen-files while MkDocs builds the site: adds the files that are not under ``docs/``."""

import sys
from pathlib import Path

import mkdocs_gen_files
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # `tools` is not installed

from tools.docs_pages import site  # noqa: E402

editor = mkdocs_gen_files.FilesEditor.current()
torch.set_num_threads(1)  # Probes are small: threads cost more than they give.
made = site.files(editor.config.nav)
for name, content in made.items():
    committed = ROOT / "docs" / name
    if not committed.is_file() or committed.read_bytes() != content:
        with editor.open(name, "wb") as file:
            file.write(content)
editor.config.nav = site.expanded(editor.config.nav, made)
