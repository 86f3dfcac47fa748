"""Is a game well, ill or done: saturation, gradients, spectrum, collapse, equilibrium, a room each.

`saturation` reads a step's logits and `gradients` the field, inside jit. `spectrum` multiplies by the
game's Jacobian on the device and reads eigenvalues on the host. `collapse` compares features, and
`equilibrium` losses with those of the ideal saddle. Each says what it sees, and none what to do about it.
"""
