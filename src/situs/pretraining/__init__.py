"""Pretraining: the module, its teacher and callbacks, and :func:`pretrain`."""
