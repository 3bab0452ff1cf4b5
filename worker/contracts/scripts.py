"""Every Redis key and Lua script of the ledger.

A batch in flight stands in exactly one of two sorted sets: WAITING (sent, not begun; score: when
sent) or LEASES (begun, score: when its lease ends; or put off, score: when to send it again).
Times are the server's own, so that no two machines' clocks are compared.
"""

PREFIX = "spanmill"
WAITING = f"{PREFIX}:waiting"
LEASES = f"{PREFIX}:leases"
#: ``job:batch`` -> bytes of its payload; -> who holds its lease; -> attempts that began.
SIZES = f"{PREFIX}:sizes"
HOLDERS = f"{PREFIX}:holders"
ATTEMPTS = f"{PREFIX}:attempts"
#: The sum of SIZES; and of each job, its batches and its bytes in flight.
IN_FLIGHT_BYTES = f"{PREFIX}:in-flight-bytes"
JOB_BATCHES = f"{PREFIX}:job-batches"
JOB_BYTES = f"{PREFIX}:job-bytes"
#: ``job`` -> when its producer last wanted room; those share it.
PRODUCERS = f"{PREFIX}:producers"
#: ``queue`` -> when the youngest message that was begun had been sent; -> when one was last begun.
BEGUN = f"{PREFIX}:begun"
BUSY = f"{PREFIX}:busy"
#: When somebody last looked for what has lapsed.
TENDED = f"{PREFIX}:tended"
#: ``worker`` -> when it was last heard; -> what it says of itself, as JSON.
HEARD = f"{PREFIX}:heard"
WORKERS = f"{PREFIX}:workers"

#: Keys of one job: about, done, wanted, cancelled, trouble, payload:N, mark:N, deaths:N.
JOB_SECONDS = 7 * 86400
PAYLOAD_SECONDS = 86400
LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
#: When nobody looked for so long, the broker was away, and nobody could renew a lease either: all
#: that were held get the time to.
OUTAGE_SECONDS = 5.0
#: A job is stuck when complaints of it have gone on for so long without a batch of it getting done;
#: it stays so until one is, and its ``about`` keeps the last reason. Complaints so far apart do not
#: belong together: longer than a process may take to say that it cannot begin.
STUCK_SECONDS = 10.0
CALM_SECONDS = 1800.0
#: A batch's message is sent again when its queue is empty and nobody has begun any from it for so
#: long, or when messages sent so much later were begun before it.
LOST_SECONDS = 5.0
OVERTAKEN_SECONDS = 30.0
#: Bounds of one script's work: others wait while it runs.
LAPSED_AT_ONCE = 100
COUNTED_AT_ONCE = 500
TROUBLE_SECONDS = 60
WORKER_SECONDS = 15.0

# Functions that the scripts share. `%NAME%` stands for a key, `key()` makes a job's. `past()` reads
# a time; one in the future is of a clock that was set back since, and says nothing.
PRELUDE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local function key(job, what) return '%PREFIX%:{' .. job .. '}:' .. what end
local function past(time)
  local seconds = tonumber(time or '0')
  if seconds > now then return 0 end
  return seconds
end
local function known(job) return redis.call('EXISTS', key(job, 'about')) == 1 end
local function is_cancelled(job) return redis.call('EXISTS', key(job, 'cancelled')) == 1 end
local function is_done(job, batch) return redis.call('GETBIT', key(job, 'done'), batch) == 1 end
local function has_payload(job, batch)
  return redis.call('EXISTS', key(job, 'payload:' .. batch)) == 1
end
local function in_flight(member)
  return redis.call('ZSCORE', '%WAITING%', member) or redis.call('ZSCORE', '%LEASES%', member)
end
local function keep(what, member, amount)
  if redis.call('HINCRBY', what, member, amount) <= 0 then redis.call('HDEL', what, member) end
end
local function drop(job, batch)
  local member = job .. ':' .. batch
  redis.call('ZREM', '%WAITING%', member)
  redis.call('ZREM', '%LEASES%', member)
  local size = redis.call('HGET', '%SIZES%', member)
  if size then
    redis.call('DECRBY', '%IN_FLIGHT_BYTES%', size)
    keep('%JOB_BATCHES%', job, -1)
    keep('%JOB_BYTES%', job, -tonumber(size))
    redis.call('HDEL', '%SIZES%', member)
  end
  redis.call('HDEL', '%HOLDERS%', member)
  redis.call('HDEL', '%ATTEMPTS%', member)
  redis.call('DEL', key(job, 'payload:' .. batch), key(job, 'mark:' .. batch),
    key(job, 'deaths:' .. batch))
end
local function has(job, batch)
  local batches = redis.call('HGET', key(job, 'about'), 'batches')
  return batches and tonumber(batch) < tonumber(batches)
end
local function want(job, batch)
  drop(job, batch)
  if has(job, batch) and not is_done(job, batch) then
    redis.call('SADD', key(job, 'wanted'), batch)
    redis.call('EXPIRE', key(job, 'wanted'), %JOB_SECONDS%)
  end
end
local function bury(job, batch, how, rows)
  if rows == '-' then rows = redis.call('GET', key(job, 'mark:' .. batch)) or '-' end
  redis.call('DEL', key(job, 'mark:' .. batch))
  redis.call('RPUSH', key(job, 'deaths:' .. batch), how .. ';' .. rows)
  redis.call('LTRIM', key(job, 'deaths:' .. batch), -256, -1)
  redis.call('EXPIRE', key(job, 'deaths:' .. batch), %JOB_SECONDS%)
  redis.call('HDEL', '%HOLDERS%', job .. ':' .. batch)
  return rows ~= '-'
end
local function complain(job, why)
  redis.call('SET', key(job, 'trouble'), why, 'EX', %TROUBLE_SECONDS%)
  if not known(job) or is_cancelled(job) then return 0 end
  local about = key(job, 'about')
  local is_calm = now - past(redis.call('HGET', about, 'complained')) > %CALM_SECONDS%
  if is_calm and redis.call('HEXISTS', about, 'paused') == 0 then
    redis.call('HDEL', about, 'troubled')
  end
  redis.call('HSET', about, 'complained', now)
  redis.call('HSETNX', about, 'troubled', now)
  if now - past(redis.call('HGET', about, 'troubled')) <= %STUCK_SECONDS% then return 0 end
  return redis.call('HSET', about, 'paused', why)
end
local function be_calm(job)
  redis.call('DEL', key(job, 'trouble'))
  redis.call('HDEL', key(job, 'about'), 'troubled', 'complained')
  return redis.call('HDEL', key(job, 'about'), 'paused')
end
-- A job that has nothing in flight gets room in any case: what is there may be waiting for workers
-- that never come.
local function has_room(job, size, max_count, max_bytes)
  redis.call('ZADD', '%PRODUCERS%', now, job)
  redis.call('ZREMRANGEBYSCORE', '%PRODUCERS%', '-inf', now - 15)
  local my_count = tonumber(redis.call('HGET', '%JOB_BATCHES%', job) or '0')
  if my_count == 0 then return true end
  local count = redis.call('ZCARD', '%WAITING%') + redis.call('ZCARD', '%LEASES%')
  local bytes = tonumber(redis.call('GET', '%IN_FLIGHT_BYTES%') or '0')
  if count >= max_count or bytes + size > max_bytes then return false end
  local sharing = redis.call('ZCARD', '%PRODUCERS%')
  local my_bytes = tonumber(redis.call('HGET', '%JOB_BYTES%', job) or '0')
  return sharing == 1
    or my_count < max_count / sharing and my_bytes + size <= max_bytes / sharing
end
local function holds(job, batch, holder)
  return redis.call('HGET', '%HOLDERS%', job .. ':' .. batch) == holder
end
"""

OPEN = """
local about = key(ARGV[1], 'about')
redis.call('HSETNX', about, 'batches_done', 0)
redis.call('HSETNX', about, 'rows_done', 0)
redis.call('HSETNX', about, 'errors', 0)
redis.call('HSET', about, 'queue', ARGV[2], 'root', ARGV[3], 'made', ARGV[4],
  'batches', ARGV[5])
be_calm(ARGV[1])
redis.call('EXPIRE', about, %JOB_SECONDS%)
redis.call('DEL', key(ARGV[1], 'cancelled'))
return tonumber(redis.call('HGET', about, 'batches_done'))
"""

# ARGV: job, batch, payload, batches and bytes allowed.
ADMIT = """
local job, batch, size = ARGV[1], ARGV[2], string.len(ARGV[3])
local member = job .. ':' .. batch
if not known(job) then return 'unknown' end
if is_cancelled(job) then return 'cancelled' end
if is_done(job, batch) then return 'done' end
if in_flight(member) then return 'in-flight' end
if not has_room(job, size, tonumber(ARGV[4]), tonumber(ARGV[5])) then return 'full' end
redis.call('SET', key(job, 'payload:' .. batch), ARGV[3], 'EX', %PAYLOAD_SECONDS%)
redis.call('ZADD', '%WAITING%', now, member)
redis.call('HSET', '%SIZES%', member, size)
redis.call('INCRBY', '%IN_FLIGHT_BYTES%', size)
redis.call('HINCRBY', '%JOB_BATCHES%', job, 1)
redis.call('HINCRBY', '%JOB_BYTES%', job, size)
redis.call('SREM', key(job, 'wanted'), batch)
return 'admitted'
"""

# ARGV: job, bytes of the payload, batches and bytes allowed. A job that cannot have any is told so
# when it tries.
ASK_ROOM = """
if not known(ARGV[1]) or is_cancelled(ARGV[1]) then return 1 end
return has_room(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])) and 1 or 0
"""

# ARGV: job, batch, holder.
BEGIN = """
local job, batch, holder = ARGV[1], ARGV[2], ARGV[3]
local member = job .. ':' .. batch
if not has(job, batch) then drop(job, batch) return {'gone'} end
if is_done(job, batch) then drop(job, batch) return {'done'} end
if is_cancelled(job) then drop(job, batch) return {'cancelled'} end
local lease = redis.call('ZSCORE', '%LEASES%', member)
if lease and tonumber(lease) > now then return {'leased'} end
local payload = redis.call('GET', key(job, 'payload:' .. batch))
if not payload or not in_flight(member) then
  want(job, batch)
  return {'gone'}
end
if lease and redis.call('HGET', '%HOLDERS%', member) then bury(job, batch, '?', '-') end
local queue = redis.call('HGET', key(job, 'about'), 'queue')
local sent = redis.call('ZSCORE', '%WAITING%', member)
if sent and tonumber(sent) > past(redis.call('HGET', '%BEGUN%', queue)) then
  redis.call('HSET', '%BEGUN%', queue, sent)
end
redis.call('HSET', '%BUSY%', queue, now)
redis.call('ZREM', '%WAITING%', member)
redis.call('ZADD', '%LEASES%', now + %LEASE_SECONDS%, member)
redis.call('HSET', '%HOLDERS%', member, holder)
redis.call('DEL', key(job, 'mark:' .. batch))
local attempt = redis.call('HINCRBY', '%ATTEMPTS%', member, 1)
local about = redis.call('HMGET', key(job, 'about'), 'root', 'made')
return {'run', attempt, payload, about[1], about[2],
  redis.call('LRANGE', key(job, 'deaths:' .. batch), 0, -1)}
"""

# A broker whose memory is full lets a script go on that began with a command that takes none: what
# was begun can be renewed, given back and counted there, which makes room.
RENEW = """
local job, batch = ARGV[1], ARGV[2]
if not holds(job, batch, ARGV[3]) then return 0 end
redis.call('EXPIRE', key(job, 'payload:' .. batch), %PAYLOAD_SECONDS%)
redis.call('ZADD', '%LEASES%', 'XX', now + %LEASE_SECONDS%, job .. ':' .. batch)
return 1
"""

# ARGV: job, batch, holder, seconds until it is sent again, trouble. Uses no attempt.
GIVE_BACK = """
local job, batch = ARGV[1], ARGV[2]
local member = job .. ':' .. batch
if not holds(job, batch, ARGV[3]) then return 0 end
redis.call('HDEL', '%HOLDERS%', member)
keep('%ATTEMPTS%', member, -1)
redis.call('DEL', key(job, 'mark:' .. batch))
redis.call('ZADD', '%LEASES%', 'XX', now + tonumber(ARGV[4]), member)
return complain(job, ARGV[5])
"""

# ARGV: job, batch, seconds until it is sent again, how many queues the worker reads, these, and the
# jobs that it holds. Only where another job's batches wait for this worker.
POSTPONE = """
local member, last = ARGV[1] .. ':' .. ARGV[2], 4 + tonumber(ARGV[4])
local reads, is_passed, is_other = {}, {[ARGV[1]] = true}, false
for i = 5, last do reads[ARGV[i]] = true end
for i = last + 1, #ARGV do is_passed[ARGV[i]] = true end
for _, waiting in ipairs(redis.call('ZRANGE', '%WAITING%', 0, -1)) do
  local job = string.match(waiting, '^(.*):%d+$')
  if not is_passed[job] then
    local queue = redis.call('HGET', key(job, 'about'), 'queue')
    is_other = queue and reads[queue] and not is_cancelled(job)
    if is_other then break end
    is_passed[job] = true
  end
end
if not is_other then return 0 end
if redis.call('ZREM', '%WAITING%', member) == 1 then
  redis.call('ZADD', '%LEASES%', now + tonumber(ARGV[3]), member)
end
return 1
"""

# ARGV: job, batch, holder, rows that it reads next.
MARK = """
if holds(ARGV[1], ARGV[2], ARGV[3]) then
  redis.call('DEL', key(ARGV[1], 'mark:' .. ARGV[2]))
  redis.call('SET', key(ARGV[1], 'mark:' .. ARGV[2]), ARGV[4], 'EX', %JOB_SECONDS%)
end
"""

# ARGV: job, batch, holder, how it died, seconds until it is sent again, the trouble when that is
# not the first death of this batch and none of its rows had been marked, and the rows of the last
# mark, or '-' from who does not know it. Returns 1 when that stops the job.
DIED = """
if not holds(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
local was_marked = bury(ARGV[1], ARGV[2], ARGV[4], ARGV[7])
redis.call('ZADD', '%LEASES%', 'XX', now + tonumber(ARGV[5]), ARGV[1] .. ':' .. ARGV[2])
local is_first = redis.call('LLEN', key(ARGV[1], 'deaths:' .. ARGV[2])) == 1
if was_marked or is_first or ARGV[6] == '' then return 0 end
return complain(ARGV[1], ARGV[6])
"""

# ARGV: the beginning of its leases' holders. They lapse now, and no row is blamed.
LOSE = """
for _, member in ipairs(redis.call('ZRANGE', '%LEASES%', 0, -1)) do
  local holder = redis.call('HGET', '%HOLDERS%', member)
  if holder and string.sub(holder, 1, #ARGV[1]) == ARGV[1] then
    redis.call('HDEL', '%HOLDERS%', member)
    redis.call('ZADD', '%LEASES%', 'XX', now, member)
  end
end
"""

DISCARD = "want(ARGV[1], ARGV[2])"

# ARGV: job, then batch, rows, errors of each. Counts each batch once.
COMMIT = """
local job, about, counted = ARGV[1], key(ARGV[1], 'about'), 0
local was_paused = be_calm(job)
if is_cancelled(job) then was_paused = 0 end  -- nothing is written after that
for i = 2, #ARGV, 3 do
  if known(job) then
    if redis.call('SETBIT', key(job, 'done'), ARGV[i], 1) == 0 then
      counted = counted + 1
      redis.call('HINCRBY', about, 'batches_done', 1)
      redis.call('HINCRBY', about, 'rows_done', ARGV[i + 1])
      redis.call('HINCRBY', about, 'errors', ARGV[i + 2])
    end
    redis.call('SREM', key(job, 'wanted'), ARGV[i])
  end
  drop(job, ARGV[i])
end
for _, what in ipairs({'about', 'done'}) do
  redis.call('EXPIRE', key(job, what), %JOB_SECONDS%)
end
return {counted, was_paused}
"""

# ARGV: how many at most; seconds of grace; seconds by which a message may be overtaken.
LAPSED = """
local out, queues = {}, {}
local function queue_of(job)
  if queues[job] == nil then queues[job] = redis.call('HGET', key(job, 'about'), 'queue') end
  return queues[job]
end
local function again(member)
  local job, batch = string.match(member, '^(.*):(%d+)$')
  if is_cancelled(job) then drop(job, batch) return end
  if not has_payload(job, batch) then want(job, batch) return end
  redis.call('ZREM', '%LEASES%', member)
  redis.call('ZADD', '%WAITING%', now, member)
  redis.call('EXPIRE', key(job, 'payload:' .. batch), %PAYLOAD_SECONDS%)
  local attempt = redis.call('HGET', '%ATTEMPTS%', member) or '0'
  if not queue_of(job) then drop(job, batch) return end
  table.insert(out, {job, batch, attempt, queue_of(job)})
end
local tended = tonumber(redis.call('GET', '%TENDED%') or now)
redis.call('DEL', '%TENDED%')
redis.call('SET', '%TENDED%', now)
if now - tended > %OUTAGE_SECONDS% then
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', '%LEASES%', '-inf', now)) do
    if redis.call('HGET', '%HOLDERS%', member) then
      redis.call('ZADD', '%LEASES%', now + %OUTAGE_SECONDS%, member)
    end
  end
end
-- The clock was set back: nothing lies that far in the future.
local far = now + 3 * %LEASE_SECONDS%
for _, member in ipairs(redis.call('ZRANGEBYSCORE', '%LEASES%', far, '+inf')) do
  redis.call('ZADD', '%LEASES%', now + %LEASE_SECONDS%, member)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', '%WAITING%', now + 1, '+inf')) do
  redis.call('ZADD', '%WAITING%', now, member)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', '%LEASES%', '-inf', now)) do
  if #out >= tonumber(ARGV[1]) then return out end
  if redis.call('HGET', '%HOLDERS%', member) then
    local job, batch = string.match(member, '^(.*):(%d+)$')
    bury(job, batch, '?', '-')
  end
  again(member)
end
local sent_before = now - tonumber(ARGV[2])
local waiting = redis.call('ZRANGEBYSCORE', '%WAITING%', '-inf', sent_before, 'WITHSCORES')
local lengths = {}
for i = 1, #waiting, 2 do
  if #out >= tonumber(ARGV[1]) then return out end
  local job, batch = string.match(waiting[i], '^(.*):(%d+)$')
  local queue = queue_of(job)
  if not queue then
    drop(job, batch)
  else
    if not lengths[queue] then lengths[queue] = redis.call('LLEN', queue) end
    local begun = past(redis.call('HGET', '%BEGUN%', queue))
    local busy = past(redis.call('HGET', '%BUSY%', queue))
    if (lengths[queue] == 0 and busy < sent_before)
        or tonumber(waiting[i + 1]) < begun - tonumber(ARGV[3])
        or not has_payload(job, batch) then
      again(waiting[i])
    end
  end
end
return out
"""

COUNTS = """
local job = ARGV[1]
if not known(job) then return false end
local about = redis.call('HMGET', key(job, 'about'),
  'batches', 'batches_done', 'rows_done', 'errors', 'queue', 'made', 'root', 'paused')
local busy, trouble = 0, about[8] or redis.call('GET', key(job, 'trouble'))
for _, member in ipairs(redis.call('ZRANGEBYSCORE', '%LEASES%', now, '+inf')) do
  if string.sub(member, 1, #job + 1) == job .. ':' and redis.call('HGET', '%HOLDERS%', member) then
    busy = busy + 1
  end
end
return {about[1], about[2], about[3], about[4],
  redis.call('HGET', '%JOB_BATCHES%', job) or '0', busy,
  redis.call('SCARD', key(job, 'wanted')),
  redis.call('EXISTS', key(job, 'cancelled')),
  about[8] and 1 or 0,
  trouble or '',
  about[5], about[6], about[7]}
"""

READ_DONE = """
if not known(ARGV[1]) then return false end
return redis.call('GET', key(ARGV[1], 'done')) or ''
"""

READ_FLIGHT = """
local oldest = redis.call('ZRANGE', '%WAITING%', 0, 0, 'WITHSCORES')
local age_ms = oldest[2] and math.max(0, math.floor((now - tonumber(oldest[2])) * 1000)) or 0
return {redis.call('ZCARD', '%WAITING%'), redis.call('ZCARD', '%LEASES%'),
  tonumber(redis.call('GET', '%IN_FLIGHT_BYTES%') or '0'), age_ms}
"""

# ARGV: job, and 1 to forget it altogether. Frees the room of what nobody is at.
CLOSE = """
local job = ARGV[1]
for _, name in ipairs({'%WAITING%', '%LEASES%'}) do
  for _, member in ipairs(redis.call('ZRANGE', name, 0, -1)) do
    if string.sub(member, 1, #job + 1) == job .. ':'
        and (ARGV[2] == '1' or redis.call('HEXISTS', '%HOLDERS%', member) == 0) then
      drop(job, string.sub(member, #job + 2))
    end
  end
end
be_calm(job)
redis.call('ZREM', '%PRODUCERS%', job)
if ARGV[2] == '1' then
  redis.call('DEL', key(job, 'about'), key(job, 'done'), key(job, 'wanted'),
    key(job, 'cancelled'))
else
  redis.call('SET', key(job, 'cancelled'), 1, 'EX', %JOB_SECONDS%)
end
"""

# ARGV: names of keys.
CHECK = """
for _, name in ipairs(ARGV) do
  redis.call('DEL', name)
  redis.call('LPUSH', name, 1)
  redis.call('LLEN', name)
  redis.call('DEL', name)
end
"""

HEAR = """
redis.call('ZADD', '%HEARD%', now, ARGV[1])
redis.call('HSET', '%WORKERS%', ARGV[1], ARGV[2])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', '%HEARD%', '-inf', now - %WORKER_SECONDS%)) do
  redis.call('ZREM', '%HEARD%', gone)
  redis.call('HDEL', '%WORKERS%', gone)
end
"""

LIST_WORKERS = """
local out = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', '%HEARD%', now - %WORKER_SECONDS%, '+inf')) do
  table.insert(out, redis.call('HGET', '%WORKERS%', worker))
end
return out
"""

FORGET_WORKER = """
redis.call('ZREM', '%HEARD%', ARGV[1])
redis.call('HDEL', '%WORKERS%', ARGV[1])
"""

_NAMES = {
    "%PREFIX%": PREFIX,
    "%WAITING%": WAITING,
    "%LEASES%": LEASES,
    "%SIZES%": SIZES,
    "%HOLDERS%": HOLDERS,
    "%ATTEMPTS%": ATTEMPTS,
    "%IN_FLIGHT_BYTES%": IN_FLIGHT_BYTES,
    "%JOB_BATCHES%": JOB_BATCHES,
    "%JOB_BYTES%": JOB_BYTES,
    "%PRODUCERS%": PRODUCERS,
    "%BEGUN%": BEGUN,
    "%BUSY%": BUSY,
    "%TENDED%": TENDED,
    "%HEARD%": HEARD,
    "%WORKERS%": WORKERS,
} | {
    "%JOB_SECONDS%": str(JOB_SECONDS),
    "%PAYLOAD_SECONDS%": str(PAYLOAD_SECONDS),
    "%LEASE_SECONDS%": str(LEASE_SECONDS),
    "%OUTAGE_SECONDS%": str(OUTAGE_SECONDS),
    "%STUCK_SECONDS%": str(STUCK_SECONDS),
    "%CALM_SECONDS%": str(CALM_SECONDS),
    "%TROUBLE_SECONDS%": str(TROUBLE_SECONDS),
    "%WORKER_SECONDS%": str(WORKER_SECONDS),
}


def fill(body: str) -> str:
    """Return a whole script: the shared functions, the body, and the keys' names in both."""
    script = PRELUDE + body
    for name, value in _NAMES.items():
        script = script.replace(name, value)
    return script
