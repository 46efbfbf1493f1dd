-- Events for wrk: each with a request_identifier and a certificate of its own, or all of one certificate:
--   wrk ... -s requests.lua URL -- SALT [CERTIFICATE DOMAIN]
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(arguments)
  salt, certificate, domain = arguments[1], arguments[2], arguments[3] or "7"
  sent = 0
end

function request()
  sent = sent + 1
  local id = certificate or (1000000 + number * 10000000 + sent)
  local body = string.format(
    '{"data":{"certificate":{"id":%s,"domain_id":%s,"state":"issued"}},"name":"certificate.issue",' ..
    '"actor":{"id":"system","entity":"dnsimple"},"account":{"id":1010},"api_version":"v2",' ..
    '"request_identifier":"%s-%d-%d"}', id, domain, salt, number, sent)
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "failed": %d, "p50": %f, "p99": %f}\n', summary.requests,
    summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
