-- The online execution of the feature specification, second half: state, order rule and calls.
--
-- Invariants
-- * A call reads what it needs, changes it in memory and writes it at its end: an error leaves no trace.
-- * A click id is counted once. It is remembered until DEDUP_MS have passed on the server's clock AND the counting
--   clock is more than LATE_MS further: whoever brings it later is refused as late, never counted again.
-- * seq grows by one with each counted click; the counting clock never goes back.
-- * A call names its counter epoch and is refused when another one is in force.
-- * Records expire by the server's clock, windows move by the counting clock. Where clicks come in long after they
--   happened, records that a window still needs may expire while none come: the set is given up then, not counted on.
--
-- Keys (one server, no cluster: record keys follow from the clicks), each after the prefix of its counter set, which is
-- what the one key that a call is given has before 'state': one set counts, another may be rebuilt beside it
--   state          hash: schema, epoch, seq, clock_ms (the last t_c), seen_generation, seen_since_ms, seen_clock_ms,
--                  expiry_step and expiries: by step of t_c when the first records written in it expire
--   seen:0 and 1   hash: click id -> msgpack row. One generation is current; the other is dropped whole when the
--                  current one has been open for long enough, and becomes the current one
--   u:<user_key>   user record, i:<ip_key> ip record
-- A row is {features in their order, seq, reason}: what a call answers for a click, and keeps to answer again.

local SEQ, REASON = FEATURE_COUNT + 1, FEATURE_COUNT + 2 -- places in a row

local function server_time_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
end

---------------------------------------------------------------------------------------------------------------- state

local function prefix_of(keys)
  return string.sub(keys[1], 1, -1 - #'state')
end

local function seen_key(prefix, generation)
  return prefix .. 'seen:' .. generation
end

local function read_state(prefix)
  local kept = redis.call('HMGET', prefix .. 'state', 'schema', 'epoch', 'seq', 'clock_ms',
    'seen_generation', 'seen_since_ms', 'seen_clock_ms', 'expiry_step')
  if not kept[1] then return nil end
  return {
    schema = tonumber(kept[1]),
    epoch = tonumber(kept[2]),
    seq = tonumber(kept[3]),
    clock_ms = tonumber(kept[4]),
    seen_generation = tonumber(kept[5]),
    seen_since_ms = tonumber(kept[6]),
    seen_clock_ms = tonumber(kept[7]),
    expiry_step = kept[8] and tonumber(kept[8]) or nil,
  }
end

local function write_state(prefix, state)
  local fields = { prefix .. 'state' }
  for name, number in pairs(state) do
    fields[#fields + 1] = name
    fields[#fields + 1] = string.format('%.0f', number)
  end
  redis.call('HSET', unpack(fields))
end

local function refusal(state, epoch)
  if not state then
    return redis.error_reply(string.format('CLEPOCH expected counter epoch %d, got none: no epoch is open', epoch))
  elseif state.epoch ~= epoch then
    return redis.error_reply(string.format('CLEPOCH expected counter epoch %d, got %d', state.epoch, epoch))
  elseif state.schema ~= SCHEMA_VERSION then
    return redis.error_reply(string.format(
      'CLSCHEMA expected counters of feature schema %d, got %d', SCHEMA_VERSION, state.schema))
  end
  return nil
end

----------------------------------------------------------------------------------------------------------- one call

local function parse_clicks(input)
  local clicks, position = {}, 1
  while position <= #input do
    local click = {}
    click.id, click.user_key, click.ip_key, click.event_time_ms, click.seq,
      click.campaign, click.session, click.user_slot, click.agent_slot, click.ip_slot,
      click.logged_in, click.device_kind, position = struct.unpack(CLICK_FORMAT, input, position)
    clicks[#clicks + 1] = click
  end
  return clicks
end

-- The rows of ids that were answered before, by id.
local function recall_rows(prefix, clicks)
  local ids, rows = {}, {}
  for i, click in ipairs(clicks) do
    ids[i] = click.id
  end
  for generation = 0, 1 do
    for i, raw in ipairs(redis.call('HMGET', seen_key(prefix, generation), unpack(ids))) do
      if raw then rows[ids[i]] = cmsgpack.unpack(raw) end
    end
  end
  return rows
end

local function load_user(call, click)
  local key = call.prefix .. 'u:' .. click.user_key
  if not call.users[key] then
    local raw = redis.call('GET', key)
    call.users[key] = raw and unpack_user(raw) or new_user(call.state.clock_ms, click.event_time_ms)
  end
  return call.users[key]
end

local function load_ip(call, click)
  local key = call.prefix .. 'i:' .. click.ip_key
  if not call.ips[key] then
    local raw = redis.call('GET', key)
    call.ips[key] = raw and unpack_ip(raw) or new_ip(call.state.clock_ms)
  end
  return call.ips[key]
end

-- A row with what is known of a click that is not counted.
local function stateless_row(click)
  local row = {}
  for place = 1, FEATURE_COUNT do
    row[place] = NO_VALUE
  end
  row[F.minute_of_week] = (bucket(click.event_time_ms, MINUTE_MS) + WEEK_OFFSET_MINUTES) % MINUTES_PER_WEEK
  row[F.logged_in] = click.logged_in
  row[F.device_kind] = click.device_kind
  row[SEQ], row[REASON] = 0, REASON_COUNTED
  return row
end

local function remember_row(call, click, row)
  call.known_rows[click.id] = row
  call.new_rows[#call.new_rows + 1] = click.id
  call.new_rows[#call.new_rows + 1] = cmsgpack.pack(row)
end

local function count_click(call, click, seq)
  local state, row = call.state, stateless_row(click)
  if click.event_time_ms > state.clock_ms then
    state.clock_ms = click.event_time_ms
  end
  call.first_clock_ms = call.first_clock_ms or state.clock_ms
  state.seq = seq
  row[SEQ] = seq
  count_user(load_user(call, click), click, state.clock_ms, row)
  count_ip(load_ip(call, click), click, state.clock_ms, row)
  remember_row(call, click, row)
  return row
end

local function refuse_click(click, reason)
  local row = stateless_row(click)
  row[REASON] = reason
  return row
end

-- The order rule for a click that arrives.
local function answer_click(call, click)
  local known = call.known_rows[click.id]
  if known then
    return known
  elseif click.event_time_ms > call.now_ms + FUTURE_MS then
    local row = refuse_click(click, REASON_FUTURE)
    remember_row(call, click, row) -- time would make it countable, after its decision was written
    return row
  elseif click.event_time_ms < call.state.clock_ms - LATE_MS then
    return refuse_click(click, REASON_LATE)
  end
  return count_click(call, click, call.state.seq + 1)
end

-- A click from the log was judged when it was first counted: it is counted under its own seq, whatever the clocks say.
local function restore_click(call, click)
  if click.seq <= call.state.seq then
    return refuse_click(click, REASON_KEPT)
  end
  return count_click(call, click, click.seq)
end

-- Drop the older generation of ids once none of its clicks could be counted again.
local function turn_seen(call)
  local state = call.state
  local clock_passed_ms = state.clock_ms - state.seen_clock_ms
  local forgettable = clock_passed_ms > LATE_MS and call.now_ms - state.seen_since_ms >= DEDUP_MS
  if call.restoring then
    forgettable = clock_passed_ms > DEDUP_MS -- days of the log pass in minutes
  end
  if forgettable then
    state.seen_generation = 1 - state.seen_generation
    state.seen_since_ms, state.seen_clock_ms = call.now_ms, state.clock_ms
    redis.call('UNLINK', seen_key(call.prefix, state.seen_generation))
  end
end

local function write_records(records, pack_record, ttl_ms)
  for key, record in pairs(records) do
    redis.call('SET', key, pack_record(record), 'PX', string.format('%.0f', ttl_ms))
  end
end

-- While old clicks are imported the counting clock lags behind; their records must outlast a pause of the import.
local function record_ttl_ms(call)
  local lag_ms = call.now_ms - call.state.clock_ms
  return RECORD_TTL_MS + math.min(math.max(lag_ms, 0), RECORD_TTL_LAG_MS_MAX)
end

-- {step of t_c, when the first records written in it expire} of all steps that a window may reach into.
local function read_expiries(prefix)
  local raw = redis.call('HGET', prefix .. 'state', 'expiries')
  return raw and cmsgpack.unpack(raw) or {}
end

local function is_needed(step, clock_ms)
  return (step + 1) * EXPIRY_STEP_MS > clock_ms - LONGEST_WINDOW_MS - LATE_MS
end

-- Within a step the counting clock may pass the server's by one step at most, and what is written then expires earlier.
local function note_expiry(call, ttl_ms)
  local state = call.state
  local step = bucket(state.clock_ms, EXPIRY_STEP_MS)
  if step == state.expiry_step then return end
  local kept = {}
  for _, noted in ipairs(read_expiries(call.prefix)) do
    if noted[1] ~= step and is_needed(noted[1], state.clock_ms) then kept[#kept + 1] = noted end
  end
  kept[#kept + 1] = { step, call.now_ms + ttl_ms - EXPIRY_STEP_MS }
  redis.call('HSET', call.prefix .. 'state', 'expiries', cmsgpack.pack(kept))
  state.expiry_step = step
end

-- Whether records that a window of the call's clicks reaches into may have expired. Where clicks come in time they cannot,
-- however long none came before: what has expired then is older than any window.
local function has_expired(call)
  local clock_ms = call.first_clock_ms -- of the first that was counted
  if call.restoring or not clock_ms or call.now_ms - clock_ms <= HOUR_MS then return false end
  for _, noted in ipairs(read_expiries(call.prefix)) do
    if is_needed(noted[1], clock_ms) and call.now_ms >= noted[2] then return true end
  end
  return false
end

local function write_back(call)
  if #call.new_rows == 0 then return end
  local ttl_ms = record_ttl_ms(call)
  turn_seen(call)
  note_expiry(call, ttl_ms)
  redis.call('HSET', seen_key(call.prefix, call.state.seen_generation), unpack(call.new_rows))
  write_records(call.users, pack_user, ttl_ms)
  write_records(call.ips, pack_ip, ttl_ms)
  write_state(call.prefix, call.state)
end

local function pack_rows(rows)
  local packed = {}
  for i, row in ipairs(rows) do
    packed[i] = struct.pack(ROW_FORMAT, unpack(row))
  end
  return table.concat(packed)
end

-- args: counter epoch, clicks in CLICK_FORMAT. Answers one ROW_FORMAT a click.
local function run_call(keys, args, restoring)
  local prefix = prefix_of(keys)
  local state, epoch = read_state(prefix), tonumber(args[1])
  local refused = refusal(state, epoch)
  if refused then return refused end
  local clicks = parse_clicks(args[2])
  if #clicks < 1 or #clicks > CALL_CLICKS_MAX then
    return redis.error_reply(string.format('CLINPUT expected 1 to %d clicks, got %d', CALL_CLICKS_MAX, #clicks))
  end
  local call = {
    prefix = prefix, state = state, restoring = restoring, now_ms = server_time_ms(),
    users = {}, ips = {}, known_rows = restoring and {} or recall_rows(prefix, clicks), new_rows = {},
  }
  local rows, answer = {}, restoring and restore_click or answer_click
  for i, click in ipairs(clicks) do
    rows[i] = answer(call, click)
  end
  if has_expired(call) then
    redis.call('UNLINK', prefix .. 'state') -- whoever settles finds no counters, and makes them again from the log
    return redis.error_reply(string.format('CLEPOCH expected the records of counter epoch %d, got expired ones', epoch))
  end
  local reply = pack_rows(rows)
  write_back(call)
  return reply
end

redis.register_function(LIBRARY .. '_count', function(keys, args)
  return run_call(keys, args, false)
end)

redis.register_function(LIBRARY .. '_restore', function(keys, args)
  return run_call(keys, args, true)
end)

-- args: epoch, seq, clock_ms. Puts an epoch in force; seq and the clock go on from what is kept, never back.
redis.register_function(LIBRARY .. '_open_epoch', function(keys, args)
  local epoch, seq, clock_ms = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  local prefix = prefix_of(keys)
  local state = read_state(prefix)
  if state and state.epoch > epoch then
    return redis.error_reply(string.format('CLEPOCH expected counter epoch %d or later, got %d', state.epoch, epoch))
  elseif state and state.schema ~= SCHEMA_VERSION then
    return refusal(state, state.epoch)
  end
  state = state or {
    schema = SCHEMA_VERSION, seq = 0, clock_ms = 0,
    seen_generation = 0, seen_since_ms = server_time_ms(), seen_clock_ms = clock_ms,
  }
  state.epoch = epoch
  state.seq = math.max(state.seq, seq)
  state.clock_ms = math.max(state.clock_ms, clock_ms)
  write_state(prefix, state)
  return redis.status_reply('OK')
end)
