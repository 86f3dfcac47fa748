"""Is a game well, ill or done: a room for each question, and none says what to do about the answer.

saturation: whether logits still have slopes, from a step's own, inside jit.
gradients: whether these reach the weights of both players and each layer, and are more than noise.
spectrum: where the flow goes, by the leading eigenvalues of the game's Jacobian.
collapse: whether samples have lost the data's spread and coverage, in features.
equilibrium: how far losses and outputs are from those of the ideal saddle.
termination: what the series of a run's scores comes to.
"""
