"""The measures beside those of torch-fidelity and torchmetrics, on the same features.

These libraries are no dependencies: GAN_JAX_PEERS names a Python that has both.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from gan_jax.metrics import frechet
from gan_jax.metrics._samples import shuffled
from gan_jax.metrics.coverage import coverage
from gan_jax.metrics.entropy import inception_score
from gan_jax.metrics.kernel import kid

PEERS = os.environ.get("GAN_JAX_PEERS")
BLOCK, SPLITS = 200, 10

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(PEERS is None, reason="GAN_JAX_PEERS names no Python with torch-fidelity and torchmetrics"),
]

# Reads an .npz, prints JSON. Real is torch-fidelity's input 2, generated its input 1.
PROGRAM = """
import json, sys
import numpy as np, torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image import FrechetInceptionDistance, InceptionScore, KernelInceptionDistance

given = {name: torch.from_numpy(array) for name, array in np.load(sys.argv[1]).items()}
real, fake, logits = given["real"], given["fake"], given["logits"]
blocks = list(zip(given["fake_blocks"], given["real_blocks"]))
quiet = {"verbose": False}


class Features(torch.nn.Module):
    num_features = real.shape[1]

    def forward(self, x):
        return x


def metrics(metric):
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


def kid(count, size):
    return kid_features_to_metric(fake, real, kid_subsets=count, kid_subset_size=size, **quiet)


found = {
    "fid": fid_statistics_to_metric(*map(fid_features_to_statistics, (fake, real)), verbose=False),
    "kid_of_blocks": [
        kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=len(pair[0]), **quiet) for pair in blocks
    ],
    "kid": kid_features_to_metric(fake, real, kid_subsets=100, kid_subset_size=len(blocks[0][0]), **quiet),
    "prc": {k: prc_features_to_metric(fake, real, prc_neighborhood=k, **quiet) for k in (3, 5)},
    "isc": isc_features_to_metric(logits, splits=int(sys.argv[2]), shuffle=False),
    "torchmetrics_fid": metrics(FrechetInceptionDistance(Features(), antialias=False, normalize=False)).item(),
    "torchmetrics_kid": metrics(KernelInceptionDistance(Features(), subsets=1, subset_size=len(real)))[0].item(),
}
score = InceptionScore(Features(), splits=1)
score.update(logits)
found["torchmetrics_isc"] = score.compute()[0].item()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def features():
    """Rectified features of decaying scales, the fakes of a shifted and narrower law; and logits of ten classes."""
    rng = np.random.default_rng(0)
    scales, turn = np.exp(-np.arange(64) / 16), rng.normal(size=(64, 64)) / 8
    real, fake = (np.maximum(rng.normal(size=(1000, 64)) * scales @ turn + shift, 0) for shift in (0.1, 0.2))
    return real.astype(np.float32), (0.9 * fake).astype(np.float32), 3 * rng.normal(size=(1000, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def peers(features, tmp_path_factory):
    real, fake, logits = features
    path = tmp_path_factory.mktemp("peers") / "features.npz"
    real_blocks, fake_blocks = (shuffled(each, 0).reshape(-1, BLOCK, 64) for each in (real, fake))
    np.savez(path, real=real, fake=fake, logits=shuffled(logits, 0), real_blocks=real_blocks, fake_blocks=fake_blocks)
    assert PEERS is not None
    ran = subprocess.run([PEERS, "-W", "ignore", "-c", PROGRAM, path, str(SPLITS)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_frechet_distance(features, peers):
    real, fake, _ = features
    found = frechet.distance(frechet.moments(fake), frechet.moments(real))
    assert found == pytest.approx(peers["fid"]["frechet_inception_distance"], rel=1e-3)
    assert found == pytest.approx(peers["torchmetrics_fid"], rel=1e-3)


def test_the_kernel_distance(features, peers):
    real, fake, _ = features
    found = kid(real, fake, block=BLOCK)
    blocks = [block["kernel_inception_distance_mean"] for block in peers["kid_of_blocks"]]
    assert found.value == pytest.approx(np.mean(blocks), rel=1e-3)
    assert found.error == pytest.approx(np.std(blocks, ddof=1) / np.sqrt(len(blocks)), rel=1e-2)
    for published in (peers["kid"]["kernel_inception_distance_mean"], peers["torchmetrics_kid"]):
        assert abs(found.value - published) < 4 * found.error


@pytest.mark.parametrize("neighbours", [3, 5])
def test_precision_and_recall(features, peers, neighbours):
    real, fake, _ = features
    found, expected = coverage(real, fake, neighbours=neighbours), peers["prc"][str(neighbours)]
    # torch-fidelity's distances are float32: a sample on a sphere may fall on either side.
    assert (found.precision, found.recall) == pytest.approx((expected["precision"], expected["recall"]), abs=2e-3)


def test_the_inception_score(features, peers):
    *_, logits = features
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = peers["isc"]["inception_score_mean"], peers["isc"]["inception_score_std"]
    assert inception_score(probabilities, splits=SPLITS) == pytest.approx(expected, rel=1e-4)
    assert inception_score(probabilities, splits=1).mean == pytest.approx(peers["torchmetrics_isc"], rel=1e-4)
