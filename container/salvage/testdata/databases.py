"""Makes databases as Podman has them in sub-directories of argv[1], some of them
left by a process that was killed, and beside each what SQLite reads from a copy:
NAME.json, {id: SHA-256 of the configuration}, or null where SQLite refuses to read."""
import hashlib, json, os, random, shutil, signal, sqlite3, sys

top = sys.argv[1]
random.seed(1)

SCHEMA = """
CREATE TABLE IF NOT EXISTS DBConfig(ID INTEGER PRIMARY KEY NOT NULL, SchemaVersion INTEGER NOT NULL, GraphRoot TEXT NOT NULL, CHECK (ID IN (1)));
CREATE TABLE IF NOT EXISTS IDNamespace(ID TEXT PRIMARY KEY NOT NULL);
CREATE TABLE IF NOT EXISTS ContainerConfig(
	ID    TEXT PRIMARY KEY NOT NULL,
	Name  TEXT UNIQUE NOT NULL,
	PodID TEXT,
	JSON  TEXT NOT NULL,
	FOREIGN KEY (ID)    REFERENCES IDNamespace(ID)    DEFERRABLE INITIALLY DEFERRED,
	FOREIGN KEY (ID)    REFERENCES ContainerState(ID) DEFERRABLE INITIALLY DEFERRED,
	FOREIGN KEY (PodID) REFERENCES PodConfig(ID)
);
CREATE TABLE IF NOT EXISTS ContainerState(ID TEXT PRIMARY KEY NOT NULL, State INTEGER NOT NULL, ExitCode INTEGER, JSON TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS PodConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, JSON TEXT NOT NULL);
"""


def config(i, big):
    return json.dumps({"id": ident(i), "name": f"ctr-{i}", "rootfs": "é" * random.randrange(1, big), "restart_policy": "on-failure", "restart_retries": i}, ensure_ascii=False)


def ident(i):
    return hashlib.sha256(str(i).encode()).hexdigest()


def connect(name, *pragmas):
    os.makedirs(f"{top}/{name}", exist_ok=True)
    db = sqlite3.connect(f"{top}/{name}/db.sql", isolation_level=None)
    for pragma in pragmas:
        db.execute("PRAGMA " + pragma)
    return db


def add(db, numbers, big=4000):
    db.execute("BEGIN EXCLUSIVE")
    for i in numbers:
        db.execute("INSERT INTO IDNamespace VALUES (?)", (ident(i),))
        db.execute("INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)", (ident(i), f"ctr-{i}", config(i, big)))
        db.execute("INSERT INTO ContainerState VALUES (?, 3, NULL, ?)", (ident(i), "{}" * 100))
    db.execute("COMMIT")


def killed(work):
    """Runs work in a process that then dies without closing anything."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def size(name, file):
    path = f"{top}/{name}/{file}"
    return os.path.getsize(path) if os.path.exists(path) else 0


def content(name):
    with open(f"{top}/{name}/db.sql", "rb") as f:
        return f.read()


def expect(name):
    """Writes what SQLite reads, from a copy, for reading changes the files."""
    shutil.copytree(f"{top}/{name}", f"{top}/copy")
    db = sqlite3.connect(f"{top}/copy/db.sql")
    try:
        db.execute("PRAGMA synchronous=OFF")
        rows = dict(db.execute("SELECT ID, CAST(JSON AS BLOB) FROM ContainerConfig NOT INDEXED"))
    except sqlite3.DatabaseError:
        rows = None
    db.close()
    shutil.rmtree(f"{top}/copy")
    with open(f"{top}/{name}.json", "w") as f:
        json.dump(rows and {i: hashlib.sha256(row).hexdigest() for i, row in rows.items()}, f)
    return rows


def whole(name, *pragmas, count=150, then=()):
    db = connect(name, "synchronous=OFF", *pragmas)
    db.executescript(SCHEMA)
    add(db, range(count))
    for statement in then:
        db.execute(statement)
    db.close()
    assert expect(name), name


whole("default")
whole("page-512", "page_size=512")
# Every length at which a row may begin to overflow its page, and the next one's.
whole("lengths", "page_size=512", count=0, then=["WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1600) INSERT INTO ContainerConfig SELECT i, i, NULL, substr(hex(zeroblob(800)), 1, i) FROM n"])
whole("page-65536", "page_size=65536")
whole("auto-vacuum", "auto_vacuum=FULL", then=["DELETE FROM ContainerConfig WHERE Name LIKE '%3%'"])
whole("deleted", then=["DELETE FROM ContainerConfig WHERE Name LIKE '%3%'"])
whole("vacuum", then=["DELETE FROM ContainerConfig WHERE Name LIKE '%3%'", "VACUUM"])
whole("vacuum-8192", then=["PRAGMA page_size=8192", "VACUUM"])
whole("added-column", then=["ALTER TABLE ContainerConfig ADD COLUMN \"Extra, (one)\" INTEGER DEFAULT 7"])
whole("other-order", then=[
    "ALTER TABLE ContainerConfig RENAME TO old",
    "CREATE TABLE \"containerconfig\" (Number INT, -- id, (json\n [json] BLOB, `a\"b` NUMERIC(3,4), /* , id */ iD TEXT CHECK (length(id) > 0), CHECK (json <> ')'))",
    "INSERT INTO containerconfig SELECT rowid * -(7 << (rowid % 8 * 8)), CAST(JSON AS BLOB), 1.5, ID FROM old"])
whole("persist", "journal_mode=PERSIST", then=["DELETE FROM ContainerConfig WHERE Name = 'ctr-7'"])
whole("truncate", "journal_mode=TRUNCATE", then=["DELETE FROM ContainerConfig WHERE Name = 'ctr-7'"])
assert size("persist", "db.sql-journal") > 0

UPDATE = "UPDATE ContainerConfig SET JSON = replace(JSON, 'on-failure', 'always') || ' '"


def journalled(name, *pragmas, mode="FULL", cache=10, count=60, big=3000, sql=(UPDATE,)):
    db = connect(name, "synchronous=OFF", *pragmas)
    db.executescript(SCHEMA)
    add(db, range(count), big)
    db.close()
    before = content(name)

    def work():
        db = connect(name, "synchronous=" + mode, f"cache_size={cache}", "cache_spill=1")
        db.execute("BEGIN EXCLUSIVE")
        for statement in sql:
            db.execute(statement)

    killed(work)
    assert content(name) != before and size(name, "db.sql-journal") > 512, name
    rows = expect(name)
    assert len(rows) == count and all(b"on-failure" in row for row in rows.values()), name


def logged(name, *pragmas, checkpoint=False):
    def work():
        db = connect(name, "journal_mode=WAL", "wal_autocheckpoint=0", *pragmas)
        db.executescript(SCHEMA)
        add(db, range(40), 3000)
        if checkpoint:
            # The log begins anew, over its older frames.
            db.execute("PRAGMA wal_checkpoint(RESTART)")
        add(db, range(40, 50), 3000)
        db.execute("DELETE FROM ContainerConfig WHERE Name = 'ctr-7'")
        db.execute("PRAGMA cache_size=1")
        db.execute("BEGIN EXCLUSIVE")
        db.execute(UPDATE)

    killed(work)
    assert size(name, "db.sql-wal") > 10000, name
    rows = expect(name)
    assert len(rows) == 49 and all(b"on-failure" in row for row in rows.values()), name


GROW = ["WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO ContainerState SELECT 'x' || i, 1, 1, hex(zeroblob(3000)) FROM n"]
DELETE = ["DELETE FROM ContainerConfig WHERE Name LIKE '%3%'"]
journalled("journal", cache=1, count=20)
journalled("journal-512", "page_size=512")
journalled("journal-65536", "page_size=65536", cache=1, count=150)
journalled("journal-off", mode="OFF", cache=1)
journalled("journal-grown", sql=GROW)
journalled("journal-several", "auto_vacuum=FULL", sql=DELETE + [UPDATE] + GROW)
logged("wal")
logged("wal-512", "page_size=512")
logged("wal-65536", "page_size=65536")
logged("wal-restarted", checkpoint=True)


def damaged(base, file, number, change):
    """Changes bytes of a copy: what SQLite makes of it is what is to be read."""
    for i in range(number):
        name = f"{base}-{change.__name__}-{i}"
        shutil.copytree(f"{top}/{base}", f"{top}/{name}")
        with open(f"{top}/{name}/{file}", "r+b") as f:
            change(f, os.path.getsize(f"{top}/{name}/{file}"))
        expect(name)


def cut(f, length):
    f.truncate(random.randrange(length))


def flip(f, length):
    at = random.randrange(length)
    f.seek(at)
    byte = f.read(1)[0]
    f.seek(at)
    f.write(bytes([byte ^ 1 << random.randrange(8)]))


for base, file in [("journal", "db.sql-journal"), ("journal-off", "db.sql-journal"), ("wal", "db.sql-wal"), ("wal-restarted", "db.sql-wal")]:
    damaged(base, file, 8, cut)
    damaged(base, file, 8, flip)

db = connect("utf-16", "encoding='UTF-16le'")
db.executescript(SCHEMA)
db.close()
