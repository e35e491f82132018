PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations VALUES(1,'runs state plugins grants keys','2026-11-24 22:10:02',1,X'3fc44ff7e186fd4349dbf21442e54ef3ba89c10e9ec52870bb45c3b777c7b6e623fc223b768d83a0cf1f4868fdac6f2b',6000119);
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    id TEXT NOT NULL,
    status TEXT NOT NULL,
    agent TEXT NOT NULL,
    digest TEXT NOT NULL,
    request_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    session_id TEXT,
    parent_id TEXT,
    limit_fuel INTEGER NOT NULL,
    limit_memory_bytes INTEGER NOT NULL,
    limit_deadline_ms INTEGER NOT NULL,
    -- Whether the run may have changed something outside itself.
    effects INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    -- Set when the run ends, never changed after that.
    finished_at INTEGER,
    stop_reason TEXT,
    used_fuel INTEGER NOT NULL DEFAULT 0,
    used_memory_peak_bytes INTEGER NOT NULL DEFAULT 0,
    used_wall_ms INTEGER NOT NULL DEFAULT 0,
    used_active_ms INTEGER NOT NULL DEFAULT 0,
    used_host_calls INTEGER NOT NULL DEFAULT 0,
    used_events INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    metadata TEXT NOT NULL,
    input TEXT NOT NULL,
    output TEXT,
    -- One index finds a user's run and lists a user's runs, and no run is found without its user.
    UNIQUE (user, id)
) STRICT;
INSERT INTO runs VALUES(1,'ann','run_01a20f9bf03770ccb5d5a1289598b4a9','succeeded','echo','sha256:724d3c10ff86121666fb5d7411209ee646760fa9cd8b1896489df907e900ffdc','req_01a20f9bf03676a383a6c0774ed78a06','talk',NULL,NULL,10000000000,268435456,60000,0,1795558207543986,1795558207545820,1795558207548138,'completed',2787,1114808,2,0,1,3,NULL,NULL,'{"from":"a client"}','{"first":"kept","number":1.50}','{"first":"kept","number":1.50}');
INSERT INTO runs VALUES(2,'ann','run_01a20f9bf05270eca7db2c347ecab6f7','succeeded','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf05172bdb170b7aec7ee56b1','thr_01a20f9bf05270eca7db2c347ecab6f7',NULL,NULL,10000000000,268435456,60000,1,1795558207570135,1795558207570716,1795558207586307,'completed',94013,1116176,15,2,8,10,NULL,NULL,'{}','{"do":"seq","steps":[{"do":"thinking","text":"hm, ü"},{"do":"progress","fraction":0.5,"note":"half"},{"do":"log","level":"warn","text":"odd"},{"do":"emit","name":"chart","payload":[1,"two",null]},{"do":"file_write","path":"a.txt","text":"kept"},{"do":"call","name":"file.read","args":{"path":"nowhere"}},{"do":"state_set","scope":"user","key":"k","text":"kept"},{"do":"state_set","scope":"user","key":"k","text":"kept since"}]}','[{"ok":null},{"ok":null},{"ok":null},{"ok":null},{"ok":4},{"error":{"kind":"not_found","text":"there is no \"nowhere\" in the workspace"}},{"ok":1},{"ok":2}]');
INSERT INTO runs VALUES(3,'ann','run_01a20f9bf07073b78f7b02652913f8bb','failed','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf07073b78f7b02649d6fdb98','thr_01a20f9bf07073b78f7b02652913f8bb',NULL,NULL,10000000000,268435456,60000,0,1795558207600644,1795558207601499,1795558207604967,'guest_error',5530,1116120,3,2,0,2,'no_luck','not today','{}','{"do":"fail","code":"no_luck","message":"not today"}',NULL);
INSERT INTO runs VALUES(4,'ann','run_01a20f9bf08075aa9afff435db7453b4','cancelled','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf08075aa9afff434a1a8ea5e','thr_01a20f9bf08075aa9afff435db7453b4',NULL,NULL,10000000000,268435456,60000,0,1795558207616745,1795558207617219,1795558207756801,'cancelled',3762,1116120,139,0,3,2,'cancelled','the run was cancelled','{}','{"do":"sleep","ms":20000}',NULL);
INSERT INTO runs VALUES(5,'ann','run_01a20f9bf11877a38e58b5d1fed03730','running','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf11877a38e58b5d06e1310e1','thr_01a20f9bf11877a38e58b5d1fed03730',NULL,NULL,10000000000,268435456,60000,0,1795558207768959,1795558207769660,NULL,NULL,0,0,0,0,0,0,NULL,NULL,'{}','{"do":"sleep","ms":50000}',NULL);
INSERT INTO runs VALUES(6,'ann','run_01a20f9bf12471088e5da7c4561428d8','running','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf1237280852edcbd430e115d','thr_01a20f9bf12471088e5da7c4561428d8',NULL,NULL,10000000000,268435456,60000,0,1795558207780049,1795558207780773,NULL,NULL,0,0,0,0,0,0,NULL,NULL,'{}','{"do":"sleep","ms":50000}',NULL);
INSERT INTO runs VALUES(7,'ann','run_01a20f9bf12e76dbab6323f9f81cb40b','running','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf12e76dbab6323f8d5b28bdc','thr_01a20f9bf12e76dbab6323f9f81cb40b',NULL,NULL,10000000000,268435456,60000,0,1795558207790932,1795558207791392,NULL,NULL,0,0,0,0,0,0,NULL,NULL,'{}','{"do":"sleep","ms":50000}',NULL);
INSERT INTO runs VALUES(8,'ann','run_01a20f9bf13c734380f56a428040aa32','running','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf13c734380f56a41d2f6ece2','thr_01a20f9bf13c734380f56a428040aa32',NULL,NULL,10000000000,268435456,60000,1,1795558207804611,1795558207805677,NULL,NULL,0,0,0,0,0,0,NULL,NULL,'{}','{"do":"seq","steps":[{"do":"file_write","path":"b.txt","text":"perhaps"},{"do":"sleep","ms":50000}]}',NULL);
INSERT INTO runs VALUES(9,'ann','run_01a20f9bf14a748092b9a818683ad8a0','running','probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','req_01a20f9bf14a748092b9a817e6f7f7c3','thr_01a20f9bf14a748092b9a818683ad8a0',NULL,NULL,10000000000,268435456,60000,1,1795558207818404,1795558207819071,NULL,NULL,0,0,0,0,0,0,NULL,NULL,'{}','{"do":"seq","steps":[{"do":"file_write","path":"b.txt","text":"perhaps"},{"do":"sleep","ms":50000}]}',NULL);
INSERT INTO runs VALUES(10,'ann','run_01a20f9bf15472c8b1d78b948e6d84cd','queued','echo','sha256:724d3c10ff86121666fb5d7411209ee646760fa9cd8b1896489df907e900ffdc','req_01a20f9bf15472c8b1d78b9358ac3b03','thr_01a20f9bf15472c8b1d78b948e6d84cd',NULL,NULL,10000000000,268435456,60000,0,1795558207828238,NULL,NULL,NULL,0,0,0,0,0,0,NULL,NULL,'{}','"queued"',NULL);
CREATE TABLE events (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO events VALUES(1,1,1795558207547463,X'0100046563686f477368613235363a37323464336331306666383631323136363666623564373431313230396565363436373630666139636438623138393634383964663930376539303066666463');
INSERT INTO events VALUES(1,2,1795558207548052,X'010115476976696e672074686520696e707574206261636b');
INSERT INTO events VALUES(1,3,1795558207548138,X'01041efbe30afcb802110002000103');
INSERT INTO events VALUES(2,1,1795558207570761,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(2,2,1795558207571303,X'010106686d2c20c3bc');
INSERT INTO events VALUES(2,3,1795558207571329,X'0106000000000000e03f0468616c66');
INSERT INTO events VALUES(2,4,1795558207571347,X'010702036f6464');
INSERT INTO events VALUES(2,5,1795558207571374,X'01080563686172740e5b312c2274776f222c6e756c6c5d');
INSERT INTO events VALUES(2,6,1795558207571415,X'0102010a66696c652e7772697465012d7b2270617468223a22612e747874222c2274657874223a226b657074222c22617070656e64223a66616c73657d2d');
INSERT INTO events VALUES(2,7,1795558207576090,X'0103010a66696c652e7772697465000b04');
INSERT INTO events VALUES(2,8,1795558207576191,X'0102020966696c652e7265616401127b2270617468223a226e6f7768657265227d12');
INSERT INTO events VALUES(2,9,1795558207577673,X'0103020966696c652e7265616401096e6f745f666f756e64267468657265206973206e6f20226e6f77686572652220696e2074686520776f726b73706163650001');
INSERT INTO events VALUES(2,10,1795558207586307,X'01049dfc3d6f0100fc100811000f02080a');
INSERT INTO events VALUES(3,1,1795558207601543,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(3,2,1795558207604967,X'010501076e6f5f6c75636b096e6f7420746f646179fb9a15fcd807110003020002');
INSERT INTO events VALUES(4,1,1795558207617258,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(4,2,1795558207756801,X'0105060963616e63656c6c6564157468652072756e207761732063616e63656c6c6564fbb20efcd80711008b000302');
INSERT INTO events VALUES(5,1,1795558207769745,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(6,1,1795558207780847,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(7,1,1795558207791441,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(8,1,1795558207805764,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(8,2,1795558207806159,X'0102010a66696c652e777269746501307b2270617468223a22622e747874222c2274657874223a2270657268617073222c22617070656e64223a66616c73657d30');
INSERT INTO events VALUES(8,3,1795558207808849,X'0103010a66696c652e7772697465000b02');
INSERT INTO events VALUES(9,1,1795558207819120,X'01000570726f6265477368613235363a39643863636434326262373732653330616336333235343465663233643938653033333331636334313034316537346165396463383061356437363962646663');
INSERT INTO events VALUES(9,2,1795558207819492,X'0102010a66696c652e777269746501307b2270617468223a22622e747874222c2274657874223a2270657268617073222c22617070656e64223a66616c73657d30');
INSERT INTO events VALUES(9,3,1795558207820333,X'0103010a66696c652e7772697465000b00');
CREATE TABLE state (
    number INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    plugin TEXT NOT NULL,
    -- Empty for state that is not bound to a thread.
    thread TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    expires_at INTEGER,
    value BLOB NOT NULL,
    UNIQUE (user, plugin, thread, key)
) STRICT;
INSERT INTO state VALUES(1,'ann','probe','','k',2,NULL,X'6b6570742073696e6365');
CREATE TABLE state_users (
    user TEXT PRIMARY KEY,
    -- Keys and values together; kept by the triggers below, so that no write has to add them up.
    bytes INTEGER NOT NULL,
    -- The newest version of any of the user's keys. Outlives the keys, so that a version never means two values.
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO state_users VALUES('ann',11,2);
CREATE TABLE plugins (
    -- Grows with every push: the order in which the versions were pushed last.
    position INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (name, digest)
) STRICT;
INSERT INTO plugins VALUES(1,'echo','sha256:724d3c10ff86121666fb5d7411209ee646760fa9cd8b1896489df907e900ffdc','{"name":"echo","digest":"sha256:724d3c10ff86121666fb5d7411209ee646760fa9cd8b1896489df907e900ffdc","kind":"agent","title":"echo","version":"0.1.0","description":"Gives its input back, unchanged. The input is any JSON value.","needs":{"tools":[],"state":"none","workspace":"none"},"input_schema":{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"AnyValue"},"output_schema":{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"AnyValue"},"tools":[],"bytes":140266,"pushed_at":"2026-11-24T22:10:05.517199Z"}');
INSERT INTO plugins VALUES(2,'probe','sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc','{"name":"probe","digest":"sha256:9d8ccd42bb772e30ac632544ef23d98e03331cc41041e74ae9dc80a5d769bdfc","kind":"agent","title":"probe","version":"0.1.0","description":"Calls every import, politely, and says what came back.","needs":{"tools":["file.*","units.*"],"state":"read_write","workspace":"read_write"},"input_schema":{"$defs":{"Call":{"properties":{"args":{"default":{}},"name":{"type":"string"}},"required":["name"],"type":"object"},"Key":{"properties":{"key":{"type":"string"},"scope":{"$ref":"#/$defs/KeyScope"}},"required":["scope","key"],"type":"object"},"KeyScope":{"enum":["thread","user"],"type":"string"},"LogLevel":{"enum":["debug","info","warn","error"],"type":"string"}},"$schema":"https://json-schema.org/draft/2020-12/schema","description":"One thing to do.","oneOf":[{"description":"Everything that identifies the run.","properties":{"do":{"const":"context","type":"string"}},"required":["do"],"type":"object"},{"description":"What is left to the run.","properties":{"do":{"const":"budget","type":"string"}},"required":["do"],"type":"object"},{"properties":{"do":{"const":"thinking","type":"string"},"text":{"type":"string"}},"required":["do","text"],"type":"object"},{"description":"`fraction` is a number, or a text such as \"NaN\", which JSON has no number for.","properties":{"do":{"const":"progress","type":"string"},"fraction":true,"note":{"type":"string"}},"required":["do","fraction","note"],"type":"object"},{"properties":{"do":{"const":"emit","type":"string"},"name":{"type":"string"},"payload":true},"required":["do","name","payload"],"type":"object"},{"properties":{"do":{"const":"log","type":"string"},"level":{"$ref":"#/$defs/LogLevel"},"text":{"type":"string"}},"required":["do","level","text"],"type":"object"},{"properties":{"do":{"const":"list_tools","type":"string"}},"required":["do"],"type":"object"},{"$ref":"#/$defs/Call","properties":{"do":{"const":"call","type":"string"}},"required":["do"],"type":"object"},{"$ref":"#/$defs/Call","description":"As `call`, but a refusal ends the run, as the SDK turns it into the agent''s error.","properties":{"do":{"const":"must_call","type":"string"}},"required":["do"],"type":"object"},{"description":"Starts all calls, then waits for them in the order of `wait` (indices into `calls`; by default as started).\nGives the answers in the order of the waiting. A call that cannot be started has its error as its answer.","properties":{"calls":{"items":{"$ref":"#/$defs/Call"},"type":"array"},"do":{"const":"parallel","type":"string"},"wait":{"default":null,"items":{"format":"uint","minimum":0,"type":"integer"},"type":["array","null"]}},"required":["do","calls"],"type":"object"},{"$ref":"#/$defs/Call","description":"Starts a call, asks whether it is ready every millisecond until it is, then waits. Gives the answer and how often\nit asked.","properties":{"do":{"const":"poll","type":"string"}},"required":["do"],"type":"object"},{"$ref":"#/$defs/Call","description":"Starts a call and drops the handle.","properties":{"do":{"const":"abandon","type":"string"}},"required":["do"],"type":"object"},{"properties":{"do":{"const":"file_list","type":"string"},"path":{"type":"string"}},"required":["do","path"],"type":"object"},{"description":"Reads a whole text file, chunk by chunk.","properties":{"do":{"const":"file_read","type":"string"},"path":{"type":"string"}},"required":["do","path"],"type":"object"},{"properties":{"append":{"default":false,"type":"boolean"},"do":{"const":"file_write","type":"string"},"path":{"type":"string"},"text":{"type":"string"}},"required":["do","path","text"],"type":"object"},{"$ref":"#/$defs/Key","properties":{"do":{"const":"state_get","type":"string"}},"required":["do"],"type":"object"},{"description":"What to store, and for how long.","properties":{"do":{"const":"state_set","type":"string"},"key":{"type":"string"},"scope":{"$ref":"#/$defs/KeyScope"},"text":{"default":"","type":"string"},"ttl_ms":{"default":null,"format":"uint64","minimum":0,"type":["integer","null"]},"zeros":{"default":0,"description":"So many zero bytes after the text.","format":"uint","minimum":0,"type":"integer"}},"required":["do","scope","key"],"type":"object"},{"$ref":"#/$defs/Key","properties":{"do":{"const":"state_delete","type":"string"}},"required":["do"],"type":"object"},{"properties":{"after":{"default":null,"type":["string","null"]},"do":{"const":"state_list","type":"string"},"limit":{"default":1000,"format":"uint32","minimum":0,"type":"integer"},"prefix":{"default":"","type":"string"},"scope":{"$ref":"#/$defs/KeyScope"}},"required":["do","scope"],"type":"object"},{"description":"`expected` is the version, or null for an absent key.","properties":{"do":{"const":"state_cas","type":"string"},"expected":{"format":"uint64","minimum":0,"type":["integer","null"]},"key":{"type":"string"},"scope":{"$ref":"#/$defs/KeyScope"},"text":{"default":"","type":"string"},"ttl_ms":{"default":null,"format":"uint64","minimum":0,"type":["integer","null"]},"zeros":{"default":0,"description":"So many zero bytes after the text.","format":"uint","minimum":0,"type":"integer"}},"required":["do","scope","key"],"type":"object"},{"description":"The wall clock in milliseconds since 1970, and two readings of the monotonic clock.","properties":{"do":{"const":"clock","type":"string"}},"required":["do"],"type":"object"},{"description":"Random bytes, as hexadecimal digits. At most 256.","properties":{"bytes":{"format":"uint","minimum":0,"type":"integer"},"do":{"const":"random","type":"string"}},"required":["do","bytes"],"type":"object"},{"description":"Prints lines to standard output, then to standard error.","properties":{"do":{"const":"print","type":"string"},"stderr":{"default":[],"items":{"type":"string"},"type":"array"},"stdout":{"default":[],"items":{"type":"string"},"type":"array"}},"required":["do"],"type":"object"},{"description":"The environment and the number of arguments.","properties":{"do":{"const":"env","type":"string"}},"required":["do"],"type":"object"},{"description":"What the standard library can reach of files: for each attempt the kind of error, or what it found.","properties":{"do":{"const":"fs","type":"string"}},"required":["do"],"type":"object"},{"description":"Something with the standard library''s files: `op` is write, append, read, list, rename, remove, make_dir,\nremove_dir, size, resize or copy.","properties":{"do":{"const":"std","type":"string"},"op":{"type":"string"},"path":{"type":"string"},"size":{"default":0,"format":"uint64","minimum":0,"type":"integer"},"text":{"default":"","type":"string"},"to":{"default":"","type":"string"}},"required":["do","op","path"],"type":"object"},{"description":"How many bytes standard input has.","properties":{"do":{"const":"stdin","type":"string"}},"required":["do"],"type":"object"},{"properties":{"do":{"const":"sleep","type":"string"},"ms":{"format":"uint64","minimum":0,"type":"integer"}},"required":["do","ms"],"type":"object"},{"description":"Gives the value back.","properties":{"do":{"const":"echo","type":"string"},"value":true},"required":["do","value"],"type":"object"},{"description":"Does one after another and gives their outputs. The first that ends the run ends it.","properties":{"do":{"const":"seq","type":"string"},"steps":{"items":{"$ref":"#"},"type":"array"}},"required":["do","steps"],"type":"object"},{"properties":{"code":{"type":"string"},"do":{"const":"fail","type":"string"},"message":{"type":"string"}},"required":["do","code","message"],"type":"object"},{"properties":{"do":{"const":"fail_denied","type":"string"},"text":{"type":"string"}},"required":["do","text"],"type":"object"},{"properties":{"do":{"const":"invalid","type":"string"},"text":{"type":"string"}},"required":["do","text"],"type":"object"}],"title":"Do"},"output_schema":{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"AnyValue"},"tools":[],"bytes":614141,"pushed_at":"2026-11-24T22:10:06.663474Z"}');
INSERT INTO plugins VALUES(3,'units','sha256:d7cc7fa10c080b8da475790c92700d214d846fa2b7e38bdc04d74496a0e0d0bb','{"name":"units","digest":"sha256:d7cc7fa10c080b8da475790c92700d214d846fa2b7e38bdc04d74496a0e0d0bb","kind":"tool","title":"units","version":"0.1.0","description":"Converts units of length, mass, time, temperature, speed, area, volume, pressure, energy, power and data, by their exact definitions.","needs":{"tools":[],"state":"none","workspace":"none"},"input_schema":null,"output_schema":null,"tools":[{"name":"convert","description":"Converts a number from one unit of measure to another of the same quantity.","input_schema":{"$schema":"https://json-schema.org/draft/2020-12/schema","additionalProperties":false,"description":"A value to convert.","properties":{"from":{"description":"The unit of the number: its symbol, such as `mi`, `degF`, `kg`, `MiB`. Symbols are case-sensitive. The tool\n`units.list` names them all.","type":"string"},"to":{"description":"The unit to convert to, of the same quantity.","type":"string"},"value":{"description":"The number to convert.","format":"double","type":"number"}},"required":["value","from","to"],"title":"Convert","type":"object"}},{"name":"list","description":"Lists the units that `convert` knows, with their symbols.","input_schema":{"$schema":"https://json-schema.org/draft/2020-12/schema","additionalProperties":false,"description":"Which units to list.","properties":{"quantity":{"default":null,"description":"Only units of this quantity, such as `length`. Without it, all.","type":["string","null"]}},"title":"List","type":"object"}}],"bytes":220002,"pushed_at":"2026-11-24T22:10:07.118548Z"}');
CREATE TABLE grants (
    user TEXT NOT NULL,
    plugin TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (user, plugin)
) STRICT, WITHOUT ROWID;
INSERT INTO grants VALUES('ann','probe','{"tools":["file.*","units.convert"],"state":"read_write","workspace":"none"}');
CREATE TABLE keys (
    secret_digest TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    user TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO keys VALUES('sha256:6eb6724f2d1d5e00ec7e97a41ca988ffc038142a1cb773f972f6f9aea81b080c','key_01a20f9bddc6778684c331c137e29b70','operator','operator',1795558202822441);
INSERT INTO keys VALUES('sha256:9c793b52325c52ca5926cb700d98fe746046c466ce947117d31836bc49851580','key_01a20f9bddc571a2b14a31fbb71ca94b','dev','user',1795558202821399);
INSERT INTO keys VALUES('sha256:d6fd01812b00be493084bc0cfafd222d5d0f98a8b9bcead6d6db9cf69a4b5552','key_01a20f9bef82707a906ef257513024ff','olga','operator',1795558207362300);
INSERT INTO keys VALUES('sha256:dd9a71c66c3f771e09a8b7c454bd57f0ca766f20dca0f1df3f57afd983695ee6','key_01a20f9beea97019900c7c8241355bec','ann','user',1795558207145214);
CREATE INDEX runs_unfinished ON runs (id) WHERE finished_at IS NULL;
CREATE INDEX state_expiring ON state (user, expires_at) WHERE expires_at IS NOT NULL;
CREATE TRIGGER state_inserted AFTER INSERT ON state BEGIN
    INSERT INTO state_users (user, bytes, version)
    VALUES (NEW.user, octet_length(NEW.key) + octet_length(NEW.value), NEW.version)
    ON CONFLICT (user) DO UPDATE SET bytes = bytes + excluded.bytes, version = max(version, excluded.version);
END;
CREATE TRIGGER state_updated AFTER UPDATE ON state BEGIN
    UPDATE state_users
    SET bytes = bytes + octet_length(NEW.value) - octet_length(OLD.value), version = max(version, NEW.version)
    WHERE user = NEW.user;
END;
CREATE TRIGGER state_deleted AFTER DELETE ON state BEGIN
    UPDATE state_users SET bytes = bytes - octet_length(OLD.key) - octet_length(OLD.value) WHERE user = OLD.user;
END;
CREATE VIEW writes (kind, user, id, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE FALSE;
CREATE TRIGGER writes_run INSTEAD OF INSERT ON writes WHEN NEW.kind = 'run' BEGIN
    INSERT INTO runs (
        user, id, status, agent, digest, request_id, thread_id, session_id, parent_id,
        limit_fuel, limit_memory_bytes, limit_deadline_ms, created_at, metadata, input
    )
    VALUES (
        NEW.user, NEW.id, NEW.v1, NEW.v2, NEW.v3, NEW.v4, NEW.v5, NEW.v6, NEW.v7,
        NEW.v8, NEW.v9, NEW.v10, NEW.v11, NEW.v12, NEW.v13
    )
    ON CONFLICT (user, id) DO NOTHING;
END;
CREATE TRIGGER writes_event INSTEAD OF INSERT ON writes WHEN NEW.kind = 'event' BEGIN
    INSERT INTO events (run, seq, at, payload)
    SELECT number, NEW.v1, NEW.v2, NEW.v3 FROM runs
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run, seq) DO NOTHING;
END;
CREATE TRIGGER writes_progress INSTEAD OF INSERT ON writes WHEN NEW.kind = 'progress' BEGIN
    UPDATE runs
    SET status = coalesce(NEW.v1, status), started_at = coalesce(NEW.v2, started_at), effects = max(effects, NEW.v3)
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL;
END;
CREATE TRIGGER writes_end INSTEAD OF INSERT ON writes WHEN NEW.kind = 'end' BEGIN
    UPDATE runs
    SET status = NEW.v1, stop_reason = NEW.v2, started_at = NEW.v3, finished_at = NEW.v4, effects = max(effects, NEW.v5),
        used_fuel = NEW.v6, used_memory_peak_bytes = NEW.v7, used_wall_ms = NEW.v8, used_active_ms = NEW.v9,
        used_host_calls = NEW.v10, used_events = NEW.v11, error_code = NEW.v12, error_message = NEW.v13, output = NEW.v14
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL;
END;
CREATE TRIGGER writes_state INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state' BEGIN
    INSERT INTO state (user, plugin, thread, key, version, expires_at, value)
    VALUES (NEW.user, NEW.id, NEW.v1, NEW.v2, NEW.v3, NEW.v4, NEW.v5)
    ON CONFLICT (user, plugin, thread, key) DO UPDATE
    SET version = excluded.version, expires_at = excluded.expires_at, value = excluded.value;
END;
CREATE TRIGGER writes_state_delete INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state_delete' BEGIN
    DELETE FROM state WHERE user = NEW.user AND plugin = NEW.id AND thread = NEW.v1 AND key = NEW.v2;
END;
CREATE TRIGGER writes_state_sweep INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state_sweep' BEGIN
    DELETE FROM state WHERE number IN (
        SELECT number FROM state
        WHERE user = NEW.user AND expires_at IS NOT NULL AND expires_at <= NEW.v1
        ORDER BY expires_at, number LIMIT NEW.v2
    );
END;
CREATE TRIGGER writes_plugin INSTEAD OF INSERT ON writes WHEN NEW.kind = 'plugin' BEGIN
    INSERT INTO plugins (position, name, digest, document)
    VALUES ((SELECT coalesce(max(position), 0) + 1 FROM plugins), NEW.id, NEW.v1, NEW.v2)
    ON CONFLICT (name, digest) DO UPDATE SET position = excluded.position, document = excluded.document;
END;
CREATE TRIGGER writes_grant INSTEAD OF INSERT ON writes WHEN NEW.kind = 'grant' BEGIN
    INSERT INTO grants (user, plugin, document) VALUES (NEW.user, NEW.id, NEW.v1)
    ON CONFLICT (user, plugin) DO UPDATE SET document = excluded.document;
END;
CREATE TRIGGER writes_key INSTEAD OF INSERT ON writes WHEN NEW.kind = 'key' BEGIN
    INSERT INTO keys (secret_digest, id, user, role, created_at) VALUES (NEW.v1, NEW.id, NEW.user, NEW.v2, NEW.v3)
    ON CONFLICT (secret_digest) DO UPDATE
    SET id = excluded.id, user = excluded.user, role = excluded.role, created_at = excluded.created_at;
END;
COMMIT;
