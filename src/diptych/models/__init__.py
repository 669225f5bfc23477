"""Models from files: weights, tokenizers, chat templates and where to get them."""
