import assert from "node:assert/strict";
import { test } from "node:test";

import { parseCsv } from "../../templates/javascript/data/src/csv.js";

test("the data template reads CSV as spreadsheets write it", () => {
  const rows = (text) => parseCsv(text).map(({ line, fields }) => [line, ...fields]);
  assert.deepEqual(rows('a,b\r\n"1, 2","say ""no"""\n\n,\n"two\nlines",x\nlast,'), [
    [1, "a", "b"],
    [2, "1, 2", 'say "no"'],
    [4, "", ""],
    [5, "two\nlines", "x"],
    [7, "last", ""],
  ]);
  assert.deepEqual(rows(""), []);
  assert.deepEqual(rows('"not closed,x\n'), [[1, '"not closed', "x"]]);
});
