-- Sends the whole HTTP requests that lie in the files named in REQUESTS, one a line, in turn; ends with a line for
-- benchmarks/wrk.py: requests, µs, p50 µs, p99 µs, errors. With GAP_MS each connection waits between an answer and its
-- next request for a random time of that mean, so that those of many connections together arrive as a Poisson process.
local requests, sent, gap_ms = {}, 0, tonumber(os.getenv("GAP_MS"))

function init()
   for path in os.getenv("REQUESTS"):gmatch("[^\n]+") do
      local file = assert(io.open(path, "rb"))
      table.insert(requests, file:read("*a"))
      file:close()
   end
end

function request()
   sent = sent + 1
   return requests[sent % #requests + 1]
end

if gap_ms then
   function delay()
      return math.floor(-math.log(1 - math.random()) * gap_ms + 0.5)
   end
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), failed))
end
