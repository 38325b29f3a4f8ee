// What a program that uses the `openai` package for JavaScript does; prints what it got as JSON.
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey, source] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const short = { steps: 2, autoEnhance: false };
const got = {};

const picture = await client.images.generate({ prompt: "a cat", n: 2, seed: 4, ...short });
got.pictures = picture.data.map((item) => item.b64_json);
got.size = picture.size;

const events = await client.images.generate({ prompt: "a cat", stream: true, ...short });
got.events = [];
for await (const event of events) got.events.push(event.type);

const { createReadStream } = await import("node:fs");
const edit = await client.images.edit({
  image: [await toFile(createReadStream(source), "a.png", { type: "image/png" })],
  prompt: "a cat",
  steps: 2,
});
got.edited = edit.data.length;

got.models = [];
for await (const model of client.models.list()) got.models.push(model.id);

try {
  await client.images.generate({ prompt: "a cat", background: "transparent" });
} catch (error) {
  got.error = [error.status, error.param, error.code];
}

const leaving = new AbortController();
const left = client.images.generate(
  { prompt: "left alone", steps: 100, autoEnhance: false },
  { signal: leaving.signal },
);
// Abort it once the server has accepted it.
const list = new URL("/api/v1/generations?limit=1", baseURL);
for (let accepted = false; !accepted; ) {
  const answer = await fetch(list, { headers: { "X-API-Key": apiKey } });
  accepted = (await answer.json()).data[0].prompt === "left alone";
}
leaving.abort();
got.aborted = await left.then(() => false, (error) => error instanceof OpenAI.APIUserAbortError);
console.log(JSON.stringify(got));
