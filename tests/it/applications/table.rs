//! What is run, one row each.

use super::{Application, OneCopy, Runtime, ThreeCopies};

const fn python(name: &'static str, package: &'static str, program: &'static str) -> Application {
    Application {
        name,
        told: "",
        runtime: Runtime::Python,
        package,
        program,
        arguments: &[],
        is_cluster: false,
        one: OneCopy::Spread,
        three: ThreeCopies::Works,
    }
}

const fn node(name: &'static str, package: &'static str, program: &'static str) -> Application {
    Application { runtime: Runtime::Node, ..python(name, package, program) }
}

impl Application {
    /// What it is told that is not a default.
    const fn told(self, told: &'static str) -> Self {
        Self { told, ..self }
    }

    const fn with(self, arguments: &'static [&'static str]) -> Self {
        Self { arguments, ..self }
    }

    const fn cluster(self) -> Self {
        Self { is_cluster: true, told: "`cluster_emulation`", arguments: &["cluster"], ..self }
    }

    /// It uses keys together that share no tag, but begin like this.
    const fn together(self, begin: &'static str) -> Self {
        Self { one: OneCopy::Together(begin), ..self }
    }
}

pub(super) const APPLICATIONS: &[Application] = &[
    python("redis-py", "redis", "redis_py_work.py"),
    python("redis-py, scripts and locks", "redis", "redis_py_work.py").with(&["scripts"]),
    python("redis-py, `RedisCluster`", "redis", "redis_py_work.py").cluster(),
    node("ioredis", "ioredis", "ioredis_work.cjs"),
    node("ioredis, scripts", "ioredis", "ioredis_work.cjs").with(&["scripts"]),
    node("ioredis, `Cluster`", "ioredis", "ioredis_work.cjs").cluster(),
    node("node-redis", "redis", "node_redis_work.cjs"),
    node("node-redis, scripts", "redis", "node_redis_work.cjs").with(&["scripts"]),
    node("node-redis, `createCluster`", "redis", "node_redis_work.cjs").cluster(),
    python("Celery, broker and results", "celery", "celery_jobs.py").together(""),
    python("Celery, broker and results", "celery", "celery_jobs.py")
        .told("`global_keyprefix` with a tag")
        .with(&["{celery}"]),
    python("RQ with its scheduler", "rq", "rq_jobs.py").together("rq:"),
    node("BullMQ", "bullmq", "bullmq.cjs").together("bull:"),
    node("BullMQ", "bullmq", "bullmq.cjs").told("`prefix` with a tag").with(&["{bull}"]),
    python("a queue in the shape of Sidekiq's", "redis", "sidekiq_queue.py").told("keys with a tag"),
    python("Django, cache and sessions", "django", "django_cache.py")
        .told("`KEY_PREFIX` \"site\"")
        .with(&["django.core.cache.backends.redis.RedisCache"])
        .together("site:"),
    python("django-redis, cache and sessions", "django-redis", "django_cache.py")
        .told("`KEY_PREFIX` \"site\"")
        .with(&["django_redis.cache.RedisCache"])
        .together("site:"),
    python("django-redis, locks", "django-redis", "django_cache.py").with(&["django_redis.cache.RedisCache", "locks"]),
    python("Flask-Session", "flask-session", "flask_sessions.py"),
    node("connect-redis with express-session", "connect-redis", "connect_redis.cjs"),
    node("Socket.IO's adapters, plain and sharded", "@socket.io/redis-adapter", "socket_io.cjs"),
    node("redlock", "redlock", "redlock.cjs"),
    python("limits, which Flask-Limiter uses", "limits", "rate_limits.py"),
    node("rate-limiter-flexible", "rate-limiter-flexible", "rate_limiters.cjs").with(&["flexible"]),
    node("rate-limit-redis with express-rate-limit", "rate-limit-redis", "rate_limiters.cjs").with(&["express"]),
];
