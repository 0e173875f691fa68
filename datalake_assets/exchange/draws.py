"""Random numbers that are a function of a key: the same bits on every machine.

Here belong the draws that the synthetic market is made of, and arithmetic that IEEE 754 rounds
exactly (+ − × ÷, the square root, scaling by powers of two). `exp`, `log` and sums whose order a
CPU chooses do not belong here: their last bit differs between processors. What is drawn belongs
in `events` and `synthetic`.
"""

import numpy as np
import numpy.typing as npt

from datalake_assets.exchange.market import Ints

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


def draw(keys: Words, stream: int, counter: Ints | int) -> Words:
    """64 random bits for each key and counter (broadcast) of a stream.

    splitmix64 over counters (Steele, Lea and Flood, 2014).
    """
    step = np.atleast_1d(np.asarray(counter, np.uint64)) + np.uint64((stream << 32) + 1)
    word: Words = keys + step * np.uint64(0x9E3779B97F4A7C15)
    word ^= word >> 30
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> 27
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> 31
    return word


def below(words: Words, bound: Ints | int, *, skip: int = 0) -> Ints:
    """Whole numbers 0 … bound − 1 from 31 bits after the lowest `skip`; bound is at least 1."""
    number: Ints = (words >> np.uint64(skip) & 0x7FFFFFFF).astype(np.int64) % bound
    return number


def unit(words: Words, quarter: int) -> Floats:
    """Numbers in [0, 1) from one of a word's four quarters of 16 bits."""
    number: Floats = ((words >> (16 * quarter)) & 0xFFFF).astype(np.float64) / 65_536
    return number


def normal(words: Words) -> Floats:
    """Nearly normal numbers (mean 0, deviation 1, within ±3.47): a sum of four uniform ones."""
    total = (words & 0xFFFF) + (words >> 16 & 0xFFFF) + (words >> 32 & 0xFFFF) + (words >> 48)
    number: Floats = (total.astype(np.float64) - 131_070.0) * (1.7320508075688772 / 65_536)
    return number


def exp2(x: Floats) -> Floats:
    """2**x, the same bits on every machine; within 1e-7 of it, relatively."""
    whole = np.rint(x)
    t = (x - whole) * 0.6931471805599453
    series = 1.0 + t * (1.0 + t * (1 / 2 + t * (1 / 6 + t * (1 / 24 + t * (1 / 120 + t / 720)))))
    power: Floats = np.ldexp(series, whole.astype(np.int64))
    return power
