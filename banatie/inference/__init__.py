"""What computes: the language model, the painter, and the catalog of the models there are."""
