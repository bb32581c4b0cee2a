"""The page in a browser prepares samples exactly as Python does."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from npm_packages import WEB

from modeling_deepspeech2.conditioning import Conditioner, condition


RATE = 16_000
RUN = """
import { readFileSync, writeFileSync } from "node:fs";
import { Conditioner, condition, join } from "%s";
for (const { file, sizes, isWhole } of JSON.parse(readFileSync(0))) {
  const samples = new Float32Array(readFileSync(file).buffer.slice(0));
  const conditioner = new Conditioner(%d, isWhole), pieces = [];
  let place = 0;
  for (const size of sizes) pieces.push(conditioner.feed(samples.slice(place, (place += size))));
  const stream = join(...pieces, conditioner.feed(new Float32Array(0), true));
  const whole = condition(samples, %d, isWhole);
  writeFileSync(file + ".stream", stream);
  writeFileSync(file + ".whole", whole.samples);
  console.log(JSON.stringify([conditioner.skipped, whole.skipped]));
}
"""


def recordings(clips) -> list[np.ndarray]:
    """Clips at levels from -50 dB on, with silence of several kinds around them, and what is no speech at all."""
    rng = np.random.default_rng(0)
    zero, hum = np.zeros(RATE, np.float32), 1e-3 * rng.standard_normal(RATE).astype(np.float32)
    click = zero.copy()
    click[500] = 0.5
    made = [zero, hum, click, np.zeros(0, np.float32), np.concatenate([zero, hum, zero[:77]])]
    for clip, decibels in zip(clips, (0, -20, -30, -40, -50, -30)):
        speech = clip.waveform * np.float32(10 ** (decibels / 20))
        made += [speech, np.concatenate([zero[:5_001], speech, zero]), np.concatenate([hum, speech, hum])]
        made.append(np.concatenate([zero, hum, click, speech, 20 * speech, zero]))
    return made


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js: apt-get install nodejs")
def test_the_page_conditions_samples_as_python_does(clips, tmp_path):
    rng, cases, expected = np.random.default_rng(1), [], []
    for number, samples in enumerate(recordings(clips)):
        for is_whole in (False, True):
            file = tmp_path / f"{number}-{is_whole}"
            samples.tofile(file)
            cuts = np.sort(rng.integers(0, len(samples) + 1, 30))
            sizes = np.diff([0, *cuts, len(samples)])
            cases.append({"file": str(file), "sizes": sizes.tolist(), "isWhole": is_whole})
            conditioner = Conditioner(RATE, is_whole)
            pieces = [conditioner(piece) for piece in np.split(samples, cuts)] + [conditioner(last=True)]
            whole, before, _ = condition(samples, RATE, is_whole)
            expected.append((np.concatenate(pieces), whole, [conditioner.skipped, before]))
    script = RUN % ((WEB / "src" / "conditioning.js").as_uri(), RATE, RATE)
    run = subprocess.run(
        ["node", "--input-type=module", "-e", script], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    for case, skipped, (stream, whole, counts) in zip(cases, run.stdout.splitlines(), expected, strict=True):
        assert json.loads(skipped) == counts
        for found, wanted in ((".stream", stream), (".whole", whole)):
            np.testing.assert_allclose(np.fromfile(case["file"] + found, np.float32), wanted, rtol=1e-6, atol=0)
