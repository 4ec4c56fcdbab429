-- Posts the files named in BODIES, one a line, in turn; ends with a line for benchmarks/serving.py:
-- requests, µs, p50 µs, p99 µs, errors.
local requests, sent = {}, 0

function init()
   wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")
   for path in os.getenv("BODIES"):gmatch("[^\n]+") do
      local file = assert(io.open(path, "rb"))
      table.insert(requests, wrk.format("POST", nil, nil, file:read("*a")))
      file:close()
   end
end

function request()
   sent = sent + 1
   return requests[sent % #requests + 1]
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), failed))
end
