// How a tool plugin reaches the host. Only in a component: nothing else has these modules.

import "../runtime/globals.js";

import context from "cofferdam:agent/context@0.1.0";
import events from "cofferdam:agent/events@0.1.0";
import state from "cofferdam:agent/state@0.1.0";
import files from "wasi:filesystem/preopens@0.2.12";
import random from "wasi:random/random@0.2.12";

import { useHost } from "../host.js";
import { exportsOf } from "../tool-plugin.js";

/** The exports of the world `tool`. */
export function exportTools(plugin, project) {
  const { describe, call } = exportsOf(plugin, project);
  const hosted = (exported) => (...args) => {
    // Not before: while the component is built, a call of the host would end the build in words of the engine.
    useHost({ context, events, files, random, state });
    return exported(...args);
  };
  return { describe: hosted(describe), call: hosted(call) };
}
