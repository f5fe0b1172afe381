"""The interval of a share of few things."""

import math
import statistics


def wilson_ci95(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share in per cent: the score interval of Wilson (1927), also for few videos.

    Args:
        right, total: videos named rightly, and all of them.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    share = right / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 100 / (1 + z * z / total)
    low, high = (middle - half) * scale, (middle + half) * scale
    return low if right else 0.0, high if right < total else 100.0  # rounding must not put the share outside
