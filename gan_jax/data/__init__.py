"""Data: the order of examples, mixtures sampled inside jit, image sets kept on the device."""
