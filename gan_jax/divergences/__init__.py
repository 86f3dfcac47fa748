"""How far apart two distributions are: f-divergences and the games they yield, and integral probability metrics.

An f-divergence D_f(p‖q) = E_q f(p/q) has the variational bound E_p T − E_q f*(T) ≤ D_f(p‖q), tight at T = f'(p/q)
(Nguyen et al. 2008, arXiv 0809.0853; Nowozin et al. 2016, arXiv 1606.00709). A critic reaches it with raw outputs
v in R through an output activation g, T = g(v), and only g and f*∘g are ever computed in a game: closed forms that
are finite wherever float32 is. An integral probability metric is E_p h − E_q h at its largest over a class of
functions h, and depends on the distance between supports where every f-divergence has long saturated.

p is the data and q the generator. The squared Wasserstein-2 distance of Gaussians is `gan_jax.metrics.frechet`.
"""

from gan_jax.divergences.gaussians import (
    MultivariateNormal,
    Normal,
    multivariate_kl,
    multivariate_squared_hellinger,
    quadrature,
)
from gan_jax.divergences.integral import (
    KERNELS,
    Kernel,
    energy_distance,
    energy_kernel,
    gaussian_kernel,
    kantorovich_rubinstein,
    lipschitz,
    maximum_mean_discrepancy,
    rational_quadratic_kernel,
    wasserstein_1d,
)
from gan_jax.divergences.ratios import (
    DIVERGENCES,
    Divergence,
    divergence,
    gan,
    jensen_shannon,
    kl,
    neyman,
    objective,
    pearson,
    reverse_kl,
    squared_hellinger,
    total_variation,
    variational,
)

__all__ = [
    "DIVERGENCES",
    "KERNELS",
    "Divergence",
    "Kernel",
    "MultivariateNormal",
    "Normal",
    "divergence",
    "energy_distance",
    "energy_kernel",
    "gan",
    "gaussian_kernel",
    "jensen_shannon",
    "kantorovich_rubinstein",
    "kl",
    "lipschitz",
    "maximum_mean_discrepancy",
    "multivariate_kl",
    "multivariate_squared_hellinger",
    "neyman",
    "objective",
    "pearson",
    "quadrature",
    "rational_quadratic_kernel",
    "reverse_kl",
    "squared_hellinger",
    "total_variation",
    "variational",
    "wasserstein_1d",
]
