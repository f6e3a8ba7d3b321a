"""The rate limiters of the package `limits`, which Flask-Limiter and others use: three strategies, all of them scripts."""

import stage

from limits import RateLimitItemPerHour, strategies
from limits.storage import RedisStorage

storage = RedisStorage(f"redis://127.0.0.1:{stage.port}")
assert storage.check()
limiters = [
    strategies.FixedWindowRateLimiter(storage),
    strategies.MovingWindowRateLimiter(storage),
    strategies.SlidingWindowCounterRateLimiter(storage),
]


def work(mark):
    limit = RateLimitItemPerHour(5)
    for limiter in limiters:
        who = f"{mark}:{type(limiter).__name__}"
        assert limiter.test(limit, who)
        taken = [limiter.hit(limit, who, "visitor") for _ in range(8)]
        assert taken == [True] * 5 + [False] * 3, (who, taken)
        assert limiter.get_window_stats(limit, who, "visitor").remaining == 0
        assert limiter.hit(limit, who, "another visitor")
        limiter.clear(limit, who, "visitor")
        assert limiter.hit(limit, who, "visitor")


work("first")
stage.halfway()
work("second")
print("ok")
