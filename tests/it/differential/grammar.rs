//! Random commands with arguments that make sense: a line per verb says what its arguments are.
//!
//! A line is words: upper case is literal; `$string` a key that usually holds a string; `a|b` one of both (`a_b` two
//! words, an empty side nothing); `word*` one to four times; anything else in lower case names a kind of argument.

/// Every single-key verb of Redis 7.0 that answers the same to the same question, and what to ask.
pub(super) const SINGLE_KEY: &[&str] = &[
    // Strings.
    "APPEND $string value",
    "BITCOUNT $string |index_index|index_index_BYTE|index_index_BIT",
    "BITFIELD $string GET_type_offset*",
    "BITFIELD $string |OVERFLOW_WRAP|OVERFLOW_SAT|OVERFLOW_FAIL SET_type_offset_integer|INCRBY_type_offset_integer",
    "BITFIELD_RO $string GET_type_offset*",
    "BITPOS $string bit |index|index_index|index_index_BIT",
    "DECR $string",
    "DECRBY $string integer",
    "GET $string",
    "GETBIT $string offset",
    "GETDEL $string",
    "GETEX $string |PERSIST|EX_seconds|PXAT_instant",
    "GETRANGE $string index index",
    "GETSET $string value",
    "INCR $string",
    "INCRBY $string integer",
    "INCRBYFLOAT $string float",
    "PSETEX $string milliseconds value",
    "SET $string value",
    "SET $string number",
    "SET $string value |NX|XX |GET |KEEPTTL|EX_seconds|PX_milliseconds|EXAT_instant_s|PXAT_instant",
    "SETBIT $string offset bit",
    "SETEX $string seconds value",
    "SETNX $string value",
    "SETRANGE $string small value",
    "STRLEN $string",
    "SUBSTR $string index index",
    // Any type.
    "DEL $any",
    "DUMP $any",
    "EXISTS $any",
    "EXPIRE $any seconds |NX|XX|GT|LT",
    "EXPIREAT $any instant_s |NX|XX|GT|LT",
    "EXPIRETIME $any",
    "OBJECT ENCODING $any",
    "OBJECT REFCOUNT $any",
    "PERSIST $any",
    "PEXPIRE $any milliseconds |NX|XX|GT|LT",
    "PEXPIREAT $any instant |NX|XX|GT|LT",
    "PEXPIRETIME $any",
    "PTTL $any",
    "RESTORE $any 0 value",
    "SORT $list |ALPHA |DESC |LIMIT_small_small",
    "SORT $set ALPHA",
    "SORT_RO $zset ALPHA |DESC",
    "TOUCH $any",
    "TTL $any",
    "TYPE $any",
    "UNLINK $any",
    // Hashes.
    "HDEL $hash field*",
    "HEXISTS $hash field",
    "HGET $hash field",
    "HGETALL $hash",
    "HINCRBY $hash field integer",
    "HINCRBYFLOAT $hash field float",
    "HKEYS $hash",
    "HLEN $hash",
    "HMGET $hash field*",
    "HMSET $hash field_value*",
    "HSCAN $hash 0 |COUNT_positive |MATCH_pattern",
    "HSET $hash field_value*",
    "HSET $hash field_number*",
    "HSETNX $hash field value",
    "HSTRLEN $hash field",
    "HVALS $hash",
    // Lists.
    "LINDEX $list index",
    "LINSERT $list BEFORE|AFTER field value",
    "LLEN $list",
    "LPOP $list |small",
    "LPOS $list field |RANK_index |COUNT_small |MAXLEN_small",
    "LPUSH $list field*",
    "LPUSH $list number*",
    "LPUSHX $list field*",
    "LRANGE $list index index",
    "LREM $list index field",
    "LSET $list index value",
    "LTRIM $list index index",
    "RPOP $list |small",
    "RPUSH $list field*",
    "RPUSH $list number*",
    "RPUSHX $list field*",
    // Sets.
    "SADD $set field*",
    "SADD $set number*",
    "SCARD $set",
    "SISMEMBER $set field",
    "SMEMBERS $set",
    "SMISMEMBER $set field*",
    "SREM $set field*",
    "SSCAN $set 0 |COUNT_positive |MATCH_pattern",
    // Sorted sets.
    "ZADD $zset score_field*",
    "ZADD $lexical 0_field*",
    "ZADD $zset |NX|XX |GT|LT |CH |INCR score field",
    "ZCARD $zset",
    "ZCOUNT $zset low high",
    "ZINCRBY $zset score field",
    "ZLEXCOUNT $lexical lex_low lex_high",
    "ZMSCORE $zset field*",
    "ZPOPMAX $zset |small",
    "ZPOPMIN $zset |small",
    "ZRANGE $zset index index |REV |WITHSCORES",
    "ZRANGE $zset low high BYSCORE |LIMIT_small_small |WITHSCORES",
    "ZRANGEBYLEX $lexical lex_low lex_high |LIMIT_small_small",
    "ZRANGEBYSCORE $zset low high |WITHSCORES |LIMIT_small_small",
    "ZRANK $zset field",
    "ZREM $zset field*",
    "ZREMRANGEBYLEX $lexical lex_low lex_high",
    "ZREMRANGEBYRANK $zset index index",
    "ZREMRANGEBYSCORE $zset low high",
    "ZREVRANGE $zset index index |WITHSCORES",
    "ZREVRANGEBYLEX $lexical lex_high lex_low |LIMIT_small_small",
    "ZREVRANGEBYSCORE $zset high low |WITHSCORES",
    "ZREVRANK $zset field",
    "ZSCAN $zset 0 |COUNT_positive |MATCH_pattern",
    "ZSCORE $zset field",
    // Places.
    "GEOADD $geo |NX|XX |CH longitude_latitude_field*",
    "GEODIST $geo field field |m|km|ft|mi",
    "GEOHASH $geo field*",
    "GEOPOS $geo field*",
    "GEORADIUS_RO $geo longitude latitude radius km |WITHCOORD |WITHDIST |ASC|DESC",
    "GEORADIUSBYMEMBER_RO $geo field radius km |COUNT_positive |ASC",
    "GEOSEARCH $geo FROMLONLAT longitude latitude BYRADIUS radius km |ASC|DESC |WITHDIST |WITHHASH",
    "GEOSEARCH $geo FROMMEMBER field BYBOX radius radius km ASC |COUNT_positive",
    // HyperLogLogs.
    "PFADD $hll field*",
    "PFCOUNT $hll",
    // Streams.
    "XACK $stream group id*",
    "XADD $stream |NOMKSTREAM |MAXLEN_small|MAXLEN_=_small|MINID_id id field_value*",
    "XDEL $stream id*",
    "XGROUP CREATE $stream group id |MKSTREAM",
    "XGROUP CREATECONSUMER $stream group consumer",
    "XGROUP DELCONSUMER $stream group consumer",
    "XGROUP DESTROY $stream group",
    "XGROUP SETID $stream group id",
    "XINFO GROUPS $stream",
    "XLEN $stream",
    "XPENDING $stream group",
    "XRANGE $stream -|id +|id |COUNT_positive",
    "XREAD |COUNT_positive STREAMS $stream id",
    "XREVRANGE $stream +|id -|id |COUNT_positive",
    "XSETID $stream id",
    "XTRIM $stream MAXLEN|MINID small",
];

/// Verbs over several keys: all of them in one node, or under one hash tag.
pub(super) const SEVERAL_KEYS: &[&str] = &[
    "BITOP AND|OR|XOR $string $string $string",
    "BITOP NOT $string $string",
    "COPY $any $any |REPLACE",
    "DEL $any $any $any",
    "EXISTS $any $any $any",
    "GEORADIUS $geo longitude latitude radius km |ASC |STORE_$geo|STOREDIST_$geo",
    "GEORADIUSBYMEMBER $geo field radius km |ASC |STORE_$geo",
    "GEOSEARCHSTORE $geo $geo FROMLONLAT longitude latitude BYRADIUS radius km",
    "LCS $string $string |LEN|IDX",
    "LMOVE $list $list LEFT|RIGHT LEFT|RIGHT",
    "LMPOP 2 $list $list LEFT|RIGHT |COUNT_positive",
    "MGET $string $string $string",
    "MSET $string value $string value",
    "MSETNX $string value $string value",
    "PFCOUNT $hll $hll",
    "PFMERGE $hll $hll",
    "RENAME $any $any",
    "RENAMENX $any $any",
    "RPOPLPUSH $list $list",
    "SDIFF $set $set",
    "SDIFFSTORE $set $set $set",
    "SINTER $set $set",
    "SINTERCARD 2 $set $set |LIMIT_small",
    "SINTERSTORE $set $set $set",
    "SMOVE $set $set field",
    "SORT $list ALPHA STORE $list",
    "SUNION $set $set",
    "SUNIONSTORE $set $set $set",
    "TOUCH $any $any",
    "UNLINK $any $any",
    "ZDIFF 2 $zset $zset |WITHSCORES",
    "ZDIFFSTORE $zset 2 $zset $zset",
    "ZINTER 2 $zset $zset |WEIGHTS_small_small |AGGREGATE_SUM|AGGREGATE_MIN |WITHSCORES",
    "ZINTERCARD 2 $zset $zset |LIMIT_small",
    "ZINTERSTORE $zset 2 $zset $zset",
    "ZMPOP 2 $zset $zset MIN|MAX |COUNT_positive",
    "ZRANGESTORE $zset $zset index index",
    "ZUNION 2 $zset $zset |WITHSCORES",
    "ZUNIONSTORE $zset 2 $zset $zset |WEIGHTS_small_small",
];

/// Verbs that only newer servers have, and some to meet: asked of servers that know them.
pub(super) const NEWER: &[&str] = &[
    "HEXPIRE $hash seconds |NX|XX|GT|LT FIELDS 2 field field",
    "HPEXPIRE $hash milliseconds FIELDS 1 field",
    "HEXPIREAT $hash instant_s FIELDS 1 field",
    "HPEXPIREAT $hash instant FIELDS 1 field",
    "HPERSIST $hash FIELDS 1 field",
    "HTTL $hash FIELDS 1 field",
    "HPTTL $hash FIELDS 1 field",
    "HEXPIRETIME $hash FIELDS 1 field",
    "HPEXPIRETIME $hash FIELDS 1 field",
    "HGETEX $hash |PERSIST|EX_seconds|PX_milliseconds FIELDS 1 field",
    "HGETDEL $hash FIELDS 2 field field",
    "HSETEX $hash |FNX|FXX |KEEPTTL|EX_seconds|PXAT_instant FIELDS 1 field value",
    "HSET $hash field_value*",
    "HGET $hash field",
    "HLEN $hash",
    "DELIFEQ $string number",
    "SET $string number",
    "GET $string",
    "XADD $stream id field value",
    "XGROUP CREATE $stream group 0",
    "XDELEX $stream |KEEPREF|DELREF|ACKED IDS 1 id",
    "XACKDEL $stream group |KEEPREF|DELREF|ACKED IDS 1 id",
    "XLEN $stream",
    "VADD $vector VALUES 3 float float float field",
    "VCARD $vector",
    "VDIM $vector",
    "VEMB $vector field",
    "VISMEMBER $vector field",
    "VSETATTR $vector field value",
    "VGETATTR $vector field",
    "VREM $vector field",
];

/// Commands at random from some lines of the grammar.
pub(super) struct Commands {
    pub(super) random: fastrand::Rng,
    lines: Vec<&'static str>,
    /// Put in front of each key: a hash tag, where all keys must share a node.
    prefix: &'static str,
}

impl Commands {
    pub(super) fn new(
        random: fastrand::Rng,
        lines: impl IntoIterator<Item = &'static str>,
        prefix: &'static str,
    ) -> Self {
        Self { random, lines: lines.into_iter().collect(), prefix }
    }

    /// The next command. One in fifty has an argument too many or too few, or a word out of place.
    pub(super) fn next(&mut self) -> Vec<Vec<u8>> {
        let line = self.lines[self.random.usize(..self.lines.len())];
        let mut arguments: Vec<Vec<u8>> = Vec::new();
        for word in line.split(' ') {
            let chosen = self.choose(word);
            let (group, times) = match chosen.strip_suffix('*') {
                Some(group) => (group, self.random.usize(1..=4)),
                None => (chosen, 1),
            };
            for _ in 0..times {
                // The verb itself may hold an underscore.
                let parts: Vec<&str> = if arguments.is_empty() { vec![group] } else { group.split('_').collect() };
                let parts = rejoin(&parts);
                for part in parts.iter().filter(|part| !part.is_empty()) {
                    let argument = self.argument(part);
                    arguments.push(argument);
                }
            }
        }
        if self.random.u8(..50) == 0 {
            self.damage(&mut arguments);
        }
        arguments
    }

    fn choose(&mut self, word: &'static str) -> &'static str {
        let sides: Vec<_> = word.split('|').collect();
        sides[self.random.usize(..sides.len())]
    }

    fn damage(&mut self, arguments: &mut Vec<Vec<u8>>) {
        match self.random.u8(..3) {
            // One verb takes another key there: with many nodes it would have to be of the same one.
            0 if !arguments[0].eq_ignore_ascii_case(b"PFCOUNT") || !self.prefix.is_empty() => {
                arguments.push(format!("{}surplus", self.prefix).into_bytes());
            }
            1 if arguments.len() > 2 => drop(arguments.pop()),
            _ => {
                if let Some(last) = arguments.last_mut() {
                    // It may stand where a key was: then it belongs to the same node, too.
                    *last = format!("{}out of place", self.prefix).into_bytes();
                }
            }
        }
    }

    fn argument(&mut self, kind: &str) -> Vec<u8> {
        if let Some(kind) = kind.strip_prefix('$') {
            return self.key(kind);
        }
        if !kind.bytes().any(|byte| byte.is_ascii_lowercase()) || matches!(kind, "m" | "km" | "ft" | "mi") {
            return self.any_case(kind);
        }
        let random = &mut self.random;
        match kind {
            "value" => return self.value(),
            "field" => format!("field-{}", random.u8(..12)),
            "group" => format!("group-{}", random.u8(..2)),
            "consumer" => format!("consumer-{}", random.u8(..3)),
            "number" => random.i32(-1000..1000).to_string(),
            "integer" if random.u8(..20) == 0 => i64::MAX.to_string(),
            "integer" => random.i64(-100..100).to_string(),
            "float" | "score" => (f64::from(random.i32(-4000..4000)) / 8.0).to_string(),
            "index" => random.i32(-12..12).to_string(),
            "small" => random.u8(..6).to_string(),
            "positive" => random.u8(1..6).to_string(),
            "offset" => random.u16(..600).to_string(),
            "bit" => random.u8(..2).to_string(),
            "type" => format!("{}{}", random.choice(["i", "u"]).unwrap_or("i"), random.u8(1..64)),
            // Far away, so that no key expires between the two answers that are compared.
            "seconds" => random.u32(50_000..90_000).to_string(),
            "milliseconds" => random.u32(50_000_000..90_000_000).to_string(),
            "instant-s" => random.u64(9_000_000_000..9_000_100_000).to_string(),
            "instant" => random.u64(9_000_000_000_000..9_000_100_000_000).to_string(),
            "low" => random.choice(["-inf", "(-20", "-5", "0", "3.5"]).unwrap_or("0").to_owned(),
            "high" => random.choice(["+inf", "(200", "25", "7"]).unwrap_or("7").to_owned(),
            "lex-low" => random.choice(["-", "[field-2", "(field-1"]).unwrap_or("-").to_owned(),
            "lex-high" => random.choice(["+", "[field-7", "(field-9"]).unwrap_or("+").to_owned(),
            "pattern" => random.choice(["*", "field-1*", "f[a-z]eld-?"]).unwrap_or("*").to_owned(),
            "longitude" => (f64::from(random.i32(-1000..1000)) / 10.0).to_string(),
            "latitude" => (f64::from(random.i32(-800..800)) / 10.0).to_string(),
            "radius" => random.u16(1..9000).to_string(),
            "id" => format!("{}-{}", random.u8(1..200), random.u8(1..5)),
            _ => panic!("the grammar has no kind of argument named {kind}"),
        }
        .into_bytes()
    }

    /// A key of a small pool, so that commands meet; one in twenty belongs to another type.
    fn key(&mut self, kind: &str) -> Vec<u8> {
        const KINDS: [&str; 7] = ["string", "hash", "list", "set", "zset", "stream", "hll"];
        let kind = match kind {
            "any" => KINDS[self.random.usize(..KINDS.len())],
            // Ranges by name are only defined where all scores are equal: no other commands' members get in.
            "lexical" => kind,
            _ if self.random.u8(..20) == 0 => KINDS[self.random.usize(..KINDS.len())],
            kind => kind,
        };
        let mut key = format!("{}{kind}:{}", self.prefix, self.random.u8(..6)).into_bytes();
        if self.random.u8(..10) == 0 {
            key.extend_from_slice(b"\r\n\0\xff{}");
        }
        key
    }

    fn any_case(&mut self, word: &str) -> Vec<u8> {
        if self.random.u8(..4) == 0 { word.to_ascii_lowercase().into_bytes() } else { word.as_bytes().to_vec() }
    }

    /// Anything: empty, words, bytes that look like protocol, long ones.
    fn value(&mut self) -> Vec<u8> {
        let length = match self.random.u8(..40) {
            0 => 0,
            1 => self.random.usize(4_000..70_000),
            _ => self.random.usize(1..60),
        };
        match self.random.u8(..4) {
            0 => b"\r\n$3\r\nGET\r\n*-1\r\n".iter().copied().cycle().take(length).collect(),
            1 => (0..length).map(|_| self.random.u8(..)).collect(),
            _ => (0..length).map(|_| self.random.u8(b'a'..=b'z')).collect(),
        }
    }
}

/// `instant_s` and the like are one kind of argument whose name holds the separator.
fn rejoin(parts: &[&str]) -> Vec<String> {
    let mut joined: Vec<String> = Vec::new();
    for part in parts {
        match (joined.last_mut(), *part) {
            (Some(last), "s") if last == "instant" => last.push_str("-s"),
            (Some(last), "low" | "high") if last == "lex" => *last = format!("lex-{part}"),
            _ => joined.push((*part).to_owned()),
        }
    }
    joined
}
