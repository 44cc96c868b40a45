-- The online execution of the feature specification, first half: what a record holds and what a click adds to it.
--
-- Nothing here reads or writes a key; `feature_calls.lua`, the second half, does. `counters.py` puts together the first
-- line (#!lua name=...), the constants of `feature_spec.py` and both halves. Names in capitals come from there, and F
-- maps a feature's name to its place in a row. The features are defined in `feature_spec.py`.
--
-- Records, packed as msgpack since most of their numbers take one byte there and none can overflow (this is the only
-- description of them; tests/scoring/test_record_layout.py reads them by it and compares them with the clicks)
--   user     {clock_ms, clicks_24h, ips, base_ms, times, campaigns, sessions}
--   ip       {clock_ms, clicks_1m, clicks_1h, clicks_24h, users, agents, logged_in_clicks}
-- Parts of records
--   clock_ms t_c when the record was last counted
--   ring     {count, ...}: the bucket of time t is number floor(t / width) modulo the ring's length
--   set      {now, before, distinct}: bitmaps of the current and the last period, and the bits set in either
--   bitmap   string of bytes, slot 0 is the lowest bit of the first one; zero bytes at its end are left out
--   times    event times of the last clicks less base_ms, in counting order, beside campaigns and sessions
--
-- string, math, struct, bit and cmsgpack exist when a function runs, not yet when Valkey 9 loads the library.

local BITS_SET = { [0] = 0 } -- of a byte
for byte = 1, 255 do
  BITS_SET[byte] = BITS_SET[(byte - byte % 2) / 2] + byte % 2
end

local function bucket(time_ms, width_ms)
  return (time_ms - time_ms % width_ms) / width_ms
end

---------------------------------------------------------------------------------------------------------------- rings

local function empty_ring(length)
  local ring = {}
  for i = 1, length do
    ring[i] = 0
  end
  return ring
end

-- Empty the buckets that began after `from_ms`, up to that of `to_ms`.
local function turn_ring(ring, width_ms, from_ms, to_ms)
  local last, current, length = bucket(from_ms, width_ms), bucket(to_ms, width_ms), #ring
  if current - last > length then
    last = current - length
  end
  for number = last + 1, current do
    ring[number % length + 1] = 0
  end
end

local function add_to_ring(ring, width_ms, clock_ms, amount)
  local length = #ring
  local place = bucket(clock_ms, width_ms) % length + 1
  ring[place] = ring[place] + amount
  local sum = 0
  for i = 1, length do
    sum = sum + ring[i]
  end
  return sum
end

----------------------------------------------------------------------------------------------------------------- sets

local function has_slot(bitmap, slot)
  local byte = string.byte(bitmap, bucket(slot, 8) + 1)
  return byte ~= nil and bit.band(byte, bit.lshift(1, slot % 8)) ~= 0
end

local function with_slot(bitmap, slot)
  local place = bucket(slot, 8) + 1
  bitmap = bitmap .. string.rep('\0', place - #bitmap)
  local byte = bit.bor(string.byte(bitmap, place), bit.lshift(1, slot % 8))
  return string.sub(bitmap, 1, place - 1) .. string.char(byte) .. string.sub(bitmap, place + 1)
end

local function bits_set(bitmap)
  local sum = 0
  for place = 1, #bitmap do
    sum = sum + BITS_SET[string.byte(bitmap, place)]
  end
  return sum
end

local function empty_set()
  return { '', '', 0 }
end

local function turn_set(set, periods)
  if periods == 1 then
    set[1], set[2], set[3] = '', set[1], bits_set(set[1])
  elseif periods > 1 then
    set[1], set[2], set[3] = '', '', 0
  end
end

local function add_to_set(set, slot)
  if not has_slot(set[1], slot) then
    set[1] = with_slot(set[1], slot)
    if not has_slot(set[2], slot) then
      set[3] = set[3] + 1
    end
  end
  return set[3]
end

---------------------------------------------------------------------------------------------------------------- users

local function new_user(clock_ms, event_time_ms)
  return {
    clock_ms = clock_ms,
    clicks_24h = empty_ring(RING_SLOTS),
    ips = empty_set(),
    base_ms = event_time_ms,
    times = {},
    campaigns = {},
    sessions = {},
  }
end

local function unpack_user(raw)
  local part = cmsgpack.unpack(raw)
  return {
    clock_ms = part[1],
    clicks_24h = part[2],
    ips = part[3],
    base_ms = part[4],
    times = part[5],
    campaigns = part[6],
    sessions = part[7],
  }
end

local function pack_user(user)
  return cmsgpack.pack({
    user.clock_ms, user.clicks_24h, user.ips, user.base_ms, user.times, user.campaigns, user.sessions,
  })
end

local function turn_user(user, clock_ms)
  turn_ring(user.clicks_24h, RING_24H_MS, user.clock_ms, clock_ms)
  turn_set(user.ips, bucket(clock_ms, USER_PERIOD_MS) - bucket(user.clock_ms, USER_PERIOD_MS))
  user.clock_ms = clock_ms
end

local function drop_first_event(user)
  table.remove(user.times, 1)
  table.remove(user.campaigns, 1)
  table.remove(user.sessions, 1)
end

-- Only the head is dropped, so what is kept is the user's last clicks without a hole; readers stop at one too old.
local function add_event(user, click, horizon)
  local count = #user.times + 1
  user.times[count] = click.event_time_ms - user.base_ms
  user.campaigns[count] = click.campaign
  user.sessions[count] = click.session
  while #user.times > USER_EVENTS or user.times[1] <= horizon do
    drop_first_event(user)
  end
end

-- What is counted over the recent clicks, newest first. Times are relative to the user's base, too old up to `horizon`.
local function measure_events(user, row, horizon)
  local times, campaigns, sessions = user.times, user.campaigns, user.sessions
  local last = #times
  local now, campaign, session = times[last], campaigns[last], sessions[last]
  local in_10s, in_1m, in_10m, in_1h, same_campaign, same_session = 0, 0, 0, 0, 0, 0
  local distinct, known, session_start = 0, {}, now
  for i = last, 1, -1 do
    local time = times[i]
    if time <= horizon then break end
    if not known[campaigns[i]] then
      known[campaigns[i]] = true
      distinct = distinct + 1
    end
    local in_session = sessions[i] == session
    if in_session and time < session_start then
      session_start = time
    end
    local away = time < now and now - time or time - now
    if away < HOUR_MS then
      in_1h = in_1h + 1
      if campaigns[i] == campaign then same_campaign = same_campaign + 1 end
      if in_session then same_session = same_session + 1 end
      if away < 10 * MINUTE_MS then in_10m = in_10m + 1 end
      if away < MINUTE_MS then in_1m = in_1m + 1 end
      if away < 10 * SECOND_MS then in_10s = in_10s + 1 end
    end
  end
  row[F.user_clicks_10s], row[F.user_clicks_1m] = in_10s, in_1m
  row[F.user_clicks_10m], row[F.user_clicks_1h] = in_10m, in_1h
  row[F.user_campaign_clicks_1h], row[F.user_campaigns] = same_campaign, distinct
  row[F.user_session_clicks_1h], row[F.user_session_age_ms] = same_session, now - session_start
end

local function measure_gaps(user, row, horizon)
  local times = user.times
  local last = #times
  local newest, smallest, largest = NO_VALUE, NO_VALUE, NO_VALUE
  for i = last, math.max(2, last - USER_GAPS + 1), -1 do
    local later, earlier = times[i], times[i - 1]
    if earlier <= horizon then break end
    local gap = earlier < later and later - earlier or earlier - later
    if i == last then newest = gap end
    if smallest == NO_VALUE or gap < smallest then smallest = gap end
    if gap > largest then largest = gap end
  end
  row[F.user_last_gap_ms], row[F.user_gap_min_ms], row[F.user_gap_max_ms] = newest, smallest, largest
end

local function count_user(user, click, clock_ms, row)
  local horizon = clock_ms - USER_EVENT_AGE_MS - user.base_ms
  turn_user(user, clock_ms)
  add_event(user, click, horizon)
  measure_events(user, row, horizon)
  measure_gaps(user, row, horizon)
  row[F.user_clicks_24h] = add_to_ring(user.clicks_24h, RING_24H_MS, clock_ms, 1)
  row[F.user_ips] = add_to_set(user.ips, click.ip_slot)
end

------------------------------------------------------------------------------------------------------------------ IPs

local function new_ip(clock_ms)
  return {
    clock_ms = clock_ms,
    clicks_1m = empty_ring(RING_SLOTS),
    clicks_1h = empty_ring(RING_SLOTS),
    clicks_24h = empty_ring(RING_SLOTS),
    users = empty_set(),
    agents = empty_set(),
    logged_in_clicks = empty_ring(2), -- this period and the last, as in a set
  }
end

local function unpack_ip(raw)
  local part = cmsgpack.unpack(raw)
  return {
    clock_ms = part[1],
    clicks_1m = part[2],
    clicks_1h = part[3],
    clicks_24h = part[4],
    users = part[5],
    agents = part[6],
    logged_in_clicks = part[7],
  }
end

local function pack_ip(ip)
  return cmsgpack.pack({
    ip.clock_ms, ip.clicks_1m, ip.clicks_1h, ip.clicks_24h, ip.users, ip.agents, ip.logged_in_clicks,
  })
end

local function turn_ip(ip, clock_ms)
  local periods = bucket(clock_ms, IP_PERIOD_MS) - bucket(ip.clock_ms, IP_PERIOD_MS)
  turn_ring(ip.clicks_1m, RING_1M_MS, ip.clock_ms, clock_ms)
  turn_ring(ip.clicks_1h, RING_1H_MS, ip.clock_ms, clock_ms)
  turn_ring(ip.clicks_24h, RING_24H_MS, ip.clock_ms, clock_ms)
  turn_ring(ip.logged_in_clicks, IP_PERIOD_MS, ip.clock_ms, clock_ms)
  turn_set(ip.users, periods)
  turn_set(ip.agents, periods)
  ip.clock_ms = clock_ms
end

local function count_ip(ip, click, clock_ms, row)
  turn_ip(ip, clock_ms)
  row[F.ip_clicks_1m] = add_to_ring(ip.clicks_1m, RING_1M_MS, clock_ms, 1)
  row[F.ip_clicks_1h] = add_to_ring(ip.clicks_1h, RING_1H_MS, clock_ms, 1)
  row[F.ip_clicks_24h] = add_to_ring(ip.clicks_24h, RING_24H_MS, clock_ms, 1)
  row[F.ip_users] = add_to_set(ip.users, click.user_slot)
  row[F.ip_agents] = add_to_set(ip.agents, click.agent_slot)
  local logged_in = click.logged_in == 1 and 1 or 0
  row[F.ip_logged_in_clicks] = add_to_ring(ip.logged_in_clicks, IP_PERIOD_MS, clock_ms, logged_in)
end
