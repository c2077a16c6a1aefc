// Runs the module of `proof/wasm` in Node: it may import nothing and must judge every golden vector as
// expected. Usage: node check.mjs MODULE
import { readFile } from "node:fs/promises";

const module = await WebAssembly.compile(await readFile(process.argv[2]));
const imports = WebAssembly.Module.imports(module);
if (imports.length > 0) {
    console.error("the verifier imports", imports);
    process.exit(1);
}
const { exports } = await WebAssembly.instantiate(module, {});
const code = exports.main(0, 0);
if (code !== 0) {
    console.error(`a golden vector is judged otherwise in WebAssembly (${code})`);
    process.exit(1);
}
console.log("every golden vector of key proofs and verified reads is judged as expected");
