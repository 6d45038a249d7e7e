"""What a bank's customer asks (BANKING77, 77 intents): a small DistilBERT of Hugging Face's, trained here from its random weights.

The data folder holds ``banking77/train.csv`` and ``test.csv``, ``text,category``, of
https://github.com/PolyAI-LDN/task-specific-datasets/tree/master/banking_data.
"""

from __future__ import annotations

import csv

from _data import data_folder, no_file
from _trained import trained
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

from edgeprune.task import Task
from edgeprune.tasks import from_transformers

NAMES = ["[PAD]", "[UNK]"]


def rows(part: str) -> list[dict[str, str]]:
    path = data_folder("banking77") / "banking77" / f"{part}.csv"
    if not path.is_file():
        raise no_file(path)
    return list(csv.DictReader(path.open(encoding="utf-8")))


LABELS = sorted({row["category"] for row in rows("train")})
DATA = {part: [{"text": row["text"], "label": LABELS.index(row["category"])} for row in rows(part)] for part in ("train", "test")}
WORDS = Tokenizer(models.WordPiece(unk_token="[UNK]"))
WORDS.normalizer, WORDS.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
WORDS.train_from_iterator([row["text"] for row in DATA["train"]], trainers.WordPieceTrainer(vocab_size=1500, special_tokens=NAMES))
TOKENIZER = PreTrainedTokenizerFast(tokenizer_object=WORDS, pad_token="[PAD]", model_input_names=["input_ids", "attention_mask"])
CONFIG = DistilBertConfig(vocab_size=1500, dim=64, n_heads=4, n_layers=2, hidden_dim=128, max_position_embeddings=32, num_labels=77)


def lesson(model: DistilBertForSequenceClassification, epochs: float = 8.0) -> Task:
    return from_transformers(model, TOKENIZER, DATA["train"], max_length=32, batch_size=64, epochs=epochs, learning_rate=0.05)


def task() -> Task:
    model = trained(__file__, lambda: DistilBertForSequenceClassification(CONFIG), lesson)
    return from_transformers(model, TOKENIZER, DATA, max_length=32, labels=LABELS, epochs=2, learning_rate=0.02)
