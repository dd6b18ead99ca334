"""Meta-models, layer samplers and the meta-gradient; no dataset, flag or file is known here."""
