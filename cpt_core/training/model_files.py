"""The small files of a model: its configuration and its tokenizer.

In: a base model's folder, a tokenizer's folder.
Out: copies, readable by everybody.
Promise: with them and the weights a folder loads with ``from_pretrained`` alone.
Never: copies weights or code.
"""

import shutil
from pathlib import Path

from cpt_core.model_folder import CONFIG_NAME

MODEL_FOLDER = "model"
"""Inside a checkpoint: the base model's configuration and the tokenizer, so that it can be exported by itself."""
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def copy_model_files(model_folder: Path, tokenizer_folder: Path, target: Path) -> None:
    """Copy what there is of them into a new folder."""
    target.mkdir()
    for folder, names in ((model_folder, (CONFIG_NAME, GENERATION_CONFIG)), (tokenizer_folder, TOKENIZER_FILES)):
        for name in names:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
