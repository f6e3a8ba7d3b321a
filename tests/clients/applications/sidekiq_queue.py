"""A queue in the shape of Sidekiq's: lists that several workers wait on, sets of jobs for later, for another try and for
nobody, counters, a heartbeat. What has to be done at once is a script. The keys share a tag, as Redis Cluster wants it too."""

import json
import threading
import time

import stage

import redis

QUEUES = ["{jobs}:queue:critical", "{jobs}:queue:default"]
# The first member that is due, taken out and put into its queue at once.
DUE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 1)
if #due == 0 then return false end
redis.call('ZREM', KEYS[1], due[1])
redis.call('LPUSH', KEYS[2], due[1])
return due[1]
"""
# A job is asked for once, however often: the lock and the push are one.
ONCE = """
if redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[2]) then
    redis.call('SADD', KEYS[3], KEYS[2])
    return redis.call('LPUSH', KEYS[2], ARGV[1])
end
return 0
"""
lock, ended = threading.Lock(), threading.Event()
done, failed_once = {}, set()
client = redis.Redis(port=stage.port, decode_responses=True)


def perform(worker, job):
    if job["kind"] == "fails once" and job["id"] not in failed_once:
        failed_once.add(job["id"])
        worker.zadd("{jobs}:retry", {json.dumps(job): time.time() + 0.2})
        return
    if job["kind"] == "dies":
        worker.zadd("{jobs}:dead", {json.dumps(job): time.time()})
    with lock:
        done[job["id"]] = done.get(job["id"], 0) + 1
    with worker.pipeline(transaction=True) as both:
        both.incr("{jobs}:stat:processed")
        both.hincrby("{jobs}:stat:kinds", job["kind"], 1)
        both.execute()


def work(number):
    worker = redis.Redis(port=stage.port, decode_responses=True)
    move = worker.register_script(DUE)
    while not ended.is_set():
        for waiting in ("{jobs}:schedule", "{jobs}:retry"):
            while move(keys=[waiting, QUEUES[1]], args=[time.time()]):
                pass
        with worker.pipeline(transaction=False) as beat:
            beat.sadd("{jobs}:processes", number).hset(f"{{jobs}}:process:{number}", mapping={"busy": 0, "beat": time.time()})
            beat.expire(f"{{jobs}}:process:{number}", 60).rpop(f"{{jobs}}:signals:{number}")
            beat.execute()
        got = worker.brpop(QUEUES, timeout=1)
        if got:
            perform(worker, json.loads(got[1]))


def all_done(wanted):
    with lock:
        return set(done) >= wanted


def shift(mark):
    once = client.register_script(ONCE)
    jobs = [{"id": f"{mark}:{number}", "kind": "plain"} for number in range(60)]
    for number, job in enumerate(jobs):
        with client.pipeline(transaction=True) as both:
            both.sadd("{jobs}:queues", QUEUES[number % 2]).lpush(QUEUES[number % 2], json.dumps(job)).execute()
    later = [{"id": f"{mark}:later:{number}", "kind": "later"} for number in range(10)]
    client.zadd("{jobs}:schedule", {json.dumps(job): time.time() + 0.5 for job in later})
    trouble = [{"id": f"{mark}:fails", "kind": "fails once"}, {"id": f"{mark}:dies", "kind": "dies"}]
    client.lpush(QUEUES[0], *[json.dumps(job) for job in trouble])
    unique = {"id": f"{mark}:unique", "kind": "plain"}
    pushed = [once(keys=[f"{{jobs}}:unique:{mark}", QUEUES[0], "{jobs}:queues"], args=[json.dumps(unique), 60]) for _ in range(5)]
    assert pushed[0] > 0 and pushed[1:] == [0] * 4, pushed
    everything = {job["id"] for job in [*jobs, *later, *trouble, unique]}
    stage.eventually("all jobs are done", lambda: all_done(everything))
    assert set(done.values()) == {1}, done
    stage.eventually("all are counted", lambda: int(client.get("{jobs}:stat:processed")) == len(done))
    assert client.smembers("{jobs}:queues") == set(QUEUES)
    assert client.zcard("{jobs}:schedule") == client.zcard("{jobs}:retry") == 0


threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(3)]
for thread in threads:
    thread.start()
shift("first")
stage.halfway()
shift("second")
assert client.zcard("{jobs}:dead") == 2
ended.set()
for thread in threads:
    thread.join(stage.PATIENCE)
print("ok")
