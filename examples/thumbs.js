#!/usr/bin/env node
// A job that says how it goes (docs/status.md): thumbs.js FILE…   It runs without cronq as well.
const fs = require("fs");
const path = require("path");

const say = (words) => {
  if (process.env.CRONQ_STATUS_FD) fs.writeSync(Number(process.env.CRONQ_STATUS_FD), JSON.stringify(words) + "\n");
};

const files = process.argv.slice(2);
for (let done = Number(process.env.CRONQ_CURSOR || 0); done < files.length; done++) {
  say({ status: path.basename(files[done]) });
  const head = fs.readFileSync(files[done]).subarray(0, 100);
  if (head.length === 0) say({ warning: `${files[done]} is empty` });
  else fs.writeFileSync(`${files[done]}.thumb`, head);
  say({ progress: [done + 1, files.length], cursor: done + 1 });
}
say({ metric: { files: files.length }, result: `${files.length} thumbnails` });
