"""The likelihood p(y | f) behind a Keras loss."""

from kfisher.likelihoods._base import Likelihood
from kfisher.likelihoods.bernoulli import Bernoulli
from kfisher.likelihoods.categorical import Categorical
from kfisher.likelihoods.distribution import DistributionLikelihood
from kfisher.likelihoods.from_loss import from_loss
from kfisher.likelihoods.laplace import Laplace
from kfisher.likelihoods.normal import Normal
from kfisher.likelihoods.poisson import Poisson

__all__ = [
    "Bernoulli",
    "Categorical",
    "DistributionLikelihood",
    "Laplace",
    "Likelihood",
    "Normal",
    "Poisson",
    "from_loss",
]
