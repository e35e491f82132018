// How an agent reaches the host. Only in a component: nothing else has these modules.

import "../runtime/globals.js";

import agents from "cofferdam:agent/agents@0.1.0";
import context from "cofferdam:agent/context@0.1.0";
import events from "cofferdam:agent/events@0.1.0";
import human from "cofferdam:agent/human@0.1.0";
import state from "cofferdam:agent/state@0.1.0";
import tools from "cofferdam:agent/tools@0.1.0";
import files from "wasi:filesystem/preopens@0.2.12";
import random from "wasi:random/random@0.2.12";

import { exportsOf } from "../agent.js";
import { useHost } from "../host.js";

/** The exports of the world `agent`. */
export function exportAgent(agent, project) {
  const { describe, run } = exportsOf(agent, project);
  const hosted = (call) => (...args) => {
    // Not before: while the component is built, a call of the host would end the build in words of the engine.
    useHost({ agents, context, events, files, human, random, state, tools });
    return call(...args);
  };
  return { describe: hosted(describe), run: hosted(run) };
}
