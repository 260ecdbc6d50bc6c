// An OPC UA server on node-opcua, told by lines of JSON on stdin, answering with lines on stdout.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const { OPCUAServer } = require("node-opcua-server");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { DataType, Variant, VariantArrayType } = require("node-opcua-variant");
const { standardUnits } = require("node-opcua-data-access");
const { StatusCodes, StatusCode } = require("node-opcua-status-code");
const { MessageSecurityMode, SecurityPolicy } = require("node-opcua-secure-channel");

const options = JSON.parse(process.argv[2]);
console.log = console.error; // stdout is ours

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

function variable(space, parent, name, dataType, value, more = {}) {
  const node = space.addVariable({
    componentOf: parent,
    nodeId: `s=${name}`,
    browseName: name,
    dataType,
    minimumSamplingInterval: 10,
    value: { dataType: DataType[dataType], arrayType: VariantArrayType.Scalar, value },
    ...more,
  });
  return node;
}

// Alarms of variables that are above 10 or below -10.
function alarms(addressSpace, space, plant, nodes) {
  addressSpace.installAlarmsAndConditionsService();
  plant.setEventNotifier(1);
  const server = addressSpace.rootFolder.objects.server;
  plant.addReference({ referenceType: "HasEventSource", nodeId: server.nodeId, isForward: false });
  for (let i = 0; i < options.alarms; i += 1) {
    const name = `alarm${i}`;
    nodes[name] = variable(space, plant, name, "Double", 0);
    plant.addReference({ referenceType: "HasEventSource", nodeId: nodes[name].nodeId });
    space.instantiateExclusiveLimitAlarm("ExclusiveLimitAlarmType", {
      browseName: `High${i}`,
      nodeId: `s=High${i}`,
      componentOf: plant,
      conditionSource: nodes[name],
      conditionName: `level ${i} high`,
      inputNode: nodes[name],
      highLimit: 10,
      highHighLimit: 100,
      lowLimit: -10,
      lowLowLimit: -100,
      optionals: ["ConfirmedState"],
    });
  }
}

function build(server) {
  const addressSpace = server.engine.addressSpace;
  const space = addressSpace.getOwnNamespace();
  const plant = space.addObject({ organizedBy: addressSpace.rootFolder.objects, browseName: "Plant" });
  const tank = space.addObject({ componentOf: plant, browseName: "Tank" });
  const nodes = {
    temp: variable(space, plant, "temp", "Double", 20.5),
    flag: variable(space, plant, "flag", "Boolean", true),
    count: variable(space, plant, "count", "Int32", -7),
    big: variable(space, plant, "big", "UInt64", [0, 5]),
    word: variable(space, plant, "word", "String", "hello"),
    byte: variable(space, plant, "byte", "Byte", 0),
    level: variable(space, tank, "Level", "Float", 1.25),
  };
  nodes.array = space.addVariable({
    componentOf: plant,
    nodeId: "s=array",
    browseName: "array",
    dataType: "Double",
    valueRank: 1,
    arrayDimensions: [4],
    minimumSamplingInterval: 10,
    value: new Variant({
      dataType: DataType.Double,
      arrayType: VariantArrayType.Array,
      value: new Float64Array([1, 2, 3, 4]),
    }),
  });
  if (options.analog) {
    nodes.pressure = space.addAnalogDataItem({
      componentOf: plant,
      nodeId: "s=pressure",
      browseName: "pressure",
      dataType: "Double",
      engineeringUnits: standardUnits.bar,
      engineeringUnitsRange: { low: 2, high: 8 },
      instrumentRange: { low: 0, high: 16 },
      value: { dataType: DataType.Double, value: 4.5 },
    });
  }
  if (options.alarms) alarms(addressSpace, space, plant, nodes);
  nodes.fixed = variable(space, plant, "fixed", "Double", 1, { accessLevel: "CurrentRead" });
  for (let i = 0; i < (options.many || 0); i += 1) {
    nodes[`n${i}`] = variable(space, plant, `n${i}`, "Double", 0);
  }
  return { addressSpace, space, nodes, plant };
}

function statusOf(number) {
  const known = Object.values(StatusCodes).find((each) => each.value === number);
  return known || StatusCode.makeStatusCode(StatusCodes.Good, number);
}

function set(nodes, order) {
  const node = nodes[order.set];
  const { dataType, arrayType } = node.readValue().value;
  const value = new Variant({ dataType, arrayType, value: order.value });
  const time = order.time === undefined ? new Date() : new Date(order.time);
  const status = order.status === undefined ? StatusCodes.Good : statusOf(order.status);
  node.setValueFromSource(value, status, time);
  return status.name;
}

// Every n-node gets the number of the round; what was written is told when it ends.
function turn(nodes, order) {
  let round = 0;
  const begin = Date.now();
  const timer = setInterval(() => {
    round += 1;
    for (let i = 0; i < options.many; i += 1) {
      nodes[`n${i}`].setValueFromSource({ dataType: DataType.Double, value: round });
    }
    if (round === order.turn) {
      clearInterval(timer);
      say({ turned: round, ms: Date.now() - begin });
    }
  }, order.every);
}

async function main() {
  const pki = new OPCUACertificateManager({
    rootFolder: options.pki,
    automaticallyAcceptUnknownCertificate: options.accept !== false,
    name: "pki",
  });
  await pki.initialize();
  const server = new OPCUAServer({
    port: options.port || 0,
    hostname: "localhost",
    host: "127.0.0.1",
    serverCertificateManager: pki,
    userCertificateManager: pki,
    ...(options.certificate
      ? { certificateFile: options.certificate, privateKeyFile: options.key }
      : {}),
    securityModes: [
      MessageSecurityMode.None,
      MessageSecurityMode.Sign,
      MessageSecurityMode.SignAndEncrypt,
    ],
    securityPolicies: (
      options.policies || ["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
    ).map((name) => SecurityPolicy[name]),
    allowAnonymous: options.anonymous !== false,
    maxConnectionsPerEndpoint: 20,
    userManager: { isValidUser: (name, password) => name === "ops" && password === "secret" },
    serverCapabilities: {
      maxSessions: 20,
      maxSubscriptionsPerSession: options.subscriptions || 10,
      maxMonitoredItems: 100000,
      maxMonitoredItemsPerSubscription: 100000,
      operationLimits: {
        maxNodesPerRead: options.limit || 1000,
        maxMonitoredItemsPerCall: options.limit || 1000,
        maxNodesPerBrowse: options.limit || 1000,
        maxNodesPerTranslateBrowsePathsToNodeIds: options.limit || 1000,
      },
    },
  });
  await server.initialize();
  const { addressSpace, space, nodes, plant } = build(server);
  await server.start();
  const port = server.endpoints[0].port;
  say({ ready: true, port, certificate: server.certificateFile });
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    try {
      const order = JSON.parse(line);
      if (order.set !== undefined) {
        say({ status: set(nodes, order) });
        return undefined;
      }
      if (order.turn !== undefined) {
        say({ turning: true });
        return turn(nodes, order);
      } else if (order.get !== undefined) {
        say({ value: nodes[order.get].readValue().value.value });
        return undefined;
      } else if (order.count !== undefined) {
        say({
          sessions: server.engine.currentSessionCount,
          subscriptions: server.engine.currentSubscriptionCount,
        });
        return undefined;
      } else if (order.add !== undefined) {
        nodes[order.add] = variable(space, plant, order.add, "Double", order.value);
      } else if (order.remove !== undefined) {
        addressSpace.deleteNode(nodes[order.remove]);
        delete nodes[order.remove];
      } else if (order.drop !== undefined) {
        // The subscriptions end on the server while the session lives.
        for (const session of Object.values(server.engine._sessions)) {
          for (const sub of [...session.publishEngine.subscriptions]) sub.terminate();
        }
      } else throw new Error(`unknown order ${line}`);
      say({ done: true });
    } catch (error) {
      say({ error: String(error) });
    }
    return undefined;
  });
  process.stdin.on("end", () => process.exit(0));
}

main().catch((error) => {
  fs.writeSync(2, `${error.stack}\n`);
  process.exit(1);
});
