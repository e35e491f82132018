// Promises whose jobs the SDK runs itself.
//
// The engine has a queue of jobs, but nothing in a component without the async ABI that runs it: the promise of an `async`
// function would never settle. So promises are these, in place of the engine's, and the build turns `async` functions into
// generators that use them.

const jobs = [];

/** Rejected promises that nobody has looked at. */
const unhandled = new Set();

export function queueMicrotask(job) {
  if (typeof job !== "function") throw new TypeError("queueMicrotask takes a function");
  jobs.push(job);
}

/** Runs all jobs, and those that they queue, in order. */
export function runJobs() {
  // By index and not by `shift`, which moves all that are left.
  for (let at = 0; at < jobs.length; at += 1) {
    const job = jobs[at];
    jobs[at] = undefined;
    job();
  }
  jobs.length = 0;
}

/** The reason of a promise that was rejected and that nobody has looked at, as `{ reason }`. */
export function takeUnhandled() {
  const [first] = unhandled;
  unhandled.clear();
  return first === undefined ? undefined : { reason: first.reason };
}

/** What became of a promise: `pending`, `fulfilled` or `rejected`, and with what. */
export let look;

const isObject = (value) => (value !== null && typeof value === "object") || typeof value === "function";

export class Promise {
  #state = "pending";
  #value;
  #reactions = [];

  constructor(executor) {
    if (typeof executor !== "function") throw new TypeError("a Promise takes a function");
    const { resolve, reject } = this.#settlers();
    try {
      executor(resolve, reject);
    } catch (error) {
      reject(error);
    }
  }

  get [Symbol.toStringTag]() {
    return "Promise";
  }

  static get [Symbol.species]() {
    return this;
  }

  static {
    look = (promise) => {
      unhandled.delete(promise.#waiting);
      return { state: promise.#state, value: promise.#value };
    };
  }

  #waiting = { reason: undefined };

  #settlers() {
    let done = false;
    const reject = (reason) => {
      if (done) return;
      done = true;
      this.#settle("rejected", reason);
    };
    const resolve = (value) => {
      if (done) return;
      done = true;
      if (value === this) return this.#settle("rejected", new TypeError("a promise cannot wait for itself"));
      if (!isObject(value)) return this.#settle("fulfilled", value);
      let then;
      try {
        then = value.then;
      } catch (error) {
        return this.#settle("rejected", error);
      }
      if (typeof then !== "function") return this.#settle("fulfilled", value);
      queueMicrotask(() => {
        const inner = this.#settlers();
        try {
          then.call(value, inner.resolve, inner.reject);
        } catch (error) {
          inner.reject(error);
        }
      });
    };
    return { resolve, reject };
  }

  #settle(state, value) {
    this.#state = state;
    this.#value = value;
    const reactions = this.#reactions;
    this.#reactions = [];
    if (state === "rejected" && reactions.length === 0) {
      this.#waiting.reason = value;
      unhandled.add(this.#waiting);
    }
    for (const react of reactions) queueMicrotask(react);
  }

  then(onFulfilled, onRejected) {
    return new Promise((resolve, reject) => {
      const react = () => {
        const handler = this.#state === "fulfilled" ? onFulfilled : onRejected;
        if (typeof handler !== "function") {
          if (this.#state === "fulfilled") resolve(this.#value);
          else reject(this.#value);
          return;
        }
        try {
          resolve(handler(this.#value));
        } catch (error) {
          reject(error);
        }
      };
      if (this.#state === "pending") this.#reactions.push(react);
      else {
        unhandled.delete(this.#waiting);
        queueMicrotask(react);
      }
    });
  }

  catch(onRejected) {
    return this.then(undefined, onRejected);
  }

  finally(onSettled) {
    if (typeof onSettled !== "function") return this.then(onSettled, onSettled);
    return this.then(
      (value) => Promise.resolve(onSettled()).then(() => value),
      (reason) =>
        Promise.resolve(onSettled()).then(() => {
          throw reason;
        }),
    );
  }

  static resolve(value) {
    return value instanceof Promise ? value : new Promise((resolve) => resolve(value));
  }

  static reject(reason) {
    return new Promise((_resolve, reject) => reject(reason));
  }

  static withResolvers() {
    let resolve;
    let reject;
    const promise = new Promise((onResolve, onReject) => {
      resolve = onResolve;
      reject = onReject;
    });
    return { promise, resolve, reject };
  }

  static try(callback, ...args) {
    return new Promise((resolve) => resolve(callback(...args)));
  }

  static all(promises) {
    return new Promise((resolve, reject) => {
      fillEach(promises, resolve, (promise, fill) => promise.then(fill, reject));
    });
  }

  static allSettled(promises) {
    return new Promise((resolve) => {
      fillEach(promises, resolve, (promise, fill) =>
        promise.then(
          (value) => fill({ status: "fulfilled", value }),
          (reason) => fill({ status: "rejected", reason }),
        ),
      );
    });
  }

  static any(promises) {
    return new Promise((resolve, reject) => {
      const none = (reasons) => reject(new AggregateError(reasons, "all promises were rejected"));
      fillEach(promises, none, (promise, fill) => promise.then(resolve, fill));
    });
  }

  static race(promises) {
    return new Promise((resolve, reject) => {
      for (const promise of promises) Promise.resolve(promise).then(resolve, reject);
    });
  }
}

/** Gives `done` an array with a place for each of `promises`, which `each` fills. */
function fillEach(promises, done, each) {
  const values = [];
  // One more than there are, until all are known.
  let missing = 1;
  const filled = () => {
    missing -= 1;
    if (missing === 0) done(values);
  };
  for (const promise of promises) {
    const at = values.length;
    values.push(undefined);
    missing += 1;
    each(Promise.resolve(promise), (value) => {
      values[at] = value;
      filled();
    });
  }
  filled();
}
