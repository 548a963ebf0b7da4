// The puppet of nsqjs, the library for Node.js. See puppet.py for the orders and reports.
'use strict'

const fs = require('fs')
const readline = require('readline')
const { Reader, Writer } = require('nsqjs')

const TOUCH_EVERY_MS = 500
const LOOKUPD = '--lookupd='
const words = process.argv.slice(2)
const allOf = (prefix) => words.filter((word) => word.startsWith(prefix)).map((word) => word.slice(prefix.length))
const addresses = words.filter((word) => !word.startsWith('--'))
const lookupds = allOf(LOOKUPD)
const layers = allOf('--layer=')
const features = { snappy: layers.includes('snappy'), deflate: layers.includes('deflate') }
if (layers.includes('tls')) Object.assign(features, { tls: true, ca: fs.readFileSync(allOf('--ca=')[0]) })
if (allOf('--secret=').length) features.authSecret = allOf('--secret=')[0]
const policy = { requeueEvery: 0, touchEvery: 0, holdAfter: 0, touchForMs: 0, seen: 0, holding: false }
let writer = null
let reader = null

function report(name, fields = {}) {
  process.stdout.write(JSON.stringify({ report: name, ...fields }) + '\n')
}

function reportMessage(message, action) {
  const { id, attempts, body } = message
  report('message', { id: id.toString(), attempts, body: body.toString('base64'), action })
}

function decide(attempts) {
  policy.seen += 1
  if (policy.holdAfter && policy.seen === policy.holdAfter + 1) {
    policy.holding = true
    report('holding')
  }
  if (policy.holding) return 'hold'
  if (policy.requeueEvery && attempts === 1 && policy.seen % policy.requeueEvery === 0) return 'requeue'
  if (policy.touchEvery && policy.seen % policy.touchEvery === 0) return 'touch'
  return 'finish'
}

function handle(message) {
  if (policy.touchForMs) return touchFor(message, Date.now() + policy.touchForMs)
  const action = decide(message.attempts)
  reportMessage(message, action)
  if (action === 'requeue') message.requeue(0, false)
  if (action === 'touch') message.touch()
  if (action === 'touch' || action === 'finish') message.finish()
}

function touchFor(message, end) {
  setTimeout(() => {
    message.touch()
    if (Date.now() < end) return touchFor(message, end)
    message.finish()
    reportMessage(message, 'touch')
  }, TOUCH_EVERY_MS)
}

function connectWriter() {
  return new Promise((resolve, reject) => {
    const [host, port] = addresses[0].split(':')
    writer = new Writer(host, Number(port), features)
    writer.on('ready', resolve)
    writer.on('error', reject)
    writer.connect()
  })
}

function answered(publish) {
  return new Promise((resolve, reject) => publish((error) => (error ? reject(error) : resolve())))
}

async function publish({ how, topic, bodies, delay_ms: delayMs }) {
  const messages = bodies.map((body) => Buffer.from(body, 'base64'))
  try {
    if (writer === null) await connectWriter()
    if (how === 'multi') {
      await answered((done) => writer.publish(topic, messages, done))
    } else if (how === 'deferred') {
      await Promise.all(messages.map((m) => answered((done) => writer.deferPublish(topic, [m], delayMs, done))))
    } else {
      await Promise.all(messages.map((m) => answered((done) => writer.publish(topic, m, done))))
    }
    report('published', { count: messages.length })
  } catch (error) {
    report('publish_failed', { error: String(error) })
  }
}

function consume({ topic, channel, in_flight: maxInFlight }) {
  let waiting = addresses.length
  // The interval of looking for nsqlookupds is also that of reconnecting, in seconds.
  const discovery = { nsqdTCPAddresses: addresses, lookupdHTTPAddresses: lookupds, lookupdPollInterval: 1 }
  reader = new Reader(topic, channel, { ...discovery, ...features, maxInFlight })
  reader.on('message', handle)
  reader.on('error', (error) => process.stderr.write(`${error}\n`))
  reader.on('nsqd_connected', () => {
    waiting -= 1
    if (waiting === 0) report('subscribed')
  })
  reader.connect()
  if (waiting === 0) report('subscribed')
}

function obey(order) {
  switch (order.order) {
    case 'publish':
      publish(order)
      break
    case 'consume':
      policy.requeueEvery = order.requeue_every || 0
      policy.touchEvery = order.touch_every || 0
      policy.holdAfter = order.hold_after || 0
      consume(order)
      break
    case 'touch_for':
      policy.touchForMs = order.seconds * 1000
      consume({ ...order, in_flight: 1 })
      break
    case 'resume':
      policy.holding = false
      policy.holdAfter = 0
      report('resumed')
      break
    case 'sync':
      report('synced')
      break
    case 'quit':
      process.exit(0)
  }
}

const orders = readline.createInterface({ input: process.stdin, crlfDelay: Infinity })
orders.on('line', (line) => obey(JSON.parse(line)))
orders.on('close', () => process.exit(0))
report('ready')
