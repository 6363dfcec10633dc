"""Small models with random weights, laid out as published ones are."""

import json

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from retrieval.texts import make_documents

TEXTS = ["baa bab loc", "tia", "the [SEP] of [CLS] words " * 3, "été 北京"]

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def make_model(folder, *, seed=0):
    """A small BERT with random weights and a tokenizer of the tests' words, laid out as published models are."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([text for _, text in make_documents(20)] + TEXTS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(5)  # as many published files do, and as must not matter
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"sep_token": "[SEP]", "cls_token": "[CLS]"}))
    torch.manual_seed(seed)
    BertModel(BertConfig(vocab_size=400, max_position_embeddings=80, **SIZES)).eval().save_pretrained(folder)
    return folder


def make_classifier(folder, *, labels=1, seed=0):
    """A small BERT that classifies pairs, with random weights."""
    make_model(folder)
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=400, max_position_embeddings=80, num_labels=labels, **SIZES)
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder
