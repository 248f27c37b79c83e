#include "daemon/store/live_store.hpp"

#include <sqlite3.h>

#include <charconv>
#include <cstdio>

#include "daemon/store/model_json.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::store {
namespace {

constexpr std::int64_t kLiveSchema = 1;
constexpr int kDamaged = -SQLITE_CORRUPT;  // what isDamage() looks for

template <typename Record>
std::string encode(const Record& record) {
  std::string bytes;
  nlohmann::json::to_cbor(nlohmann::json(record), bytes);
  return bytes;
}

template <typename Record>
Result<Record> decode(const std::string& bytes, std::string_view what) {
  try {
    return nlohmann::json::from_cbor(bytes).get<Record>();
  } catch (const nlohmann::json::exception& error) {
    return Error(Code::StorageFailed, std::string(what) + " in the live store: " + error.what(), kDamaged);
  }
}

template <typename Record>
Status loadTable(Database& database, const std::string& table, std::vector<Record>& into) {
  USERPOD_TRY(statement, database.prepare("SELECT data FROM " + table));
  for (;;) {
    USERPOD_TRY(row, statement.step());
    if (!row) return {};
    USERPOD_TRY(record, decode<Record>(statement.blob(0), table));
    into.push_back(std::move(record));
  }
}

bool running(const ContainerRecord& container) {
  return container.state == ContainerRecord::State::Running;
}

}  // namespace

Status LiveStore::prepare() {
  USERPOD_CHECK(database_.execute(
      "CREATE TABLE IF NOT EXISTS freed_addresses(address TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID"));
  USERPOD_TRY(version, database_.userVersion());
  if (version == kLiveSchema) return {};
  if (version != 0)
    return Error(Code::StorageFailed, "live store of another version (" + std::to_string(version) + ")", kDamaged);
  // The columns beside the record are what the node's stop reads.
  USERPOD_CHECK(database_.execute(
      "CREATE TABLE pods(id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;"
      "CREATE TABLE containers(id TEXT PRIMARY KEY, name TEXT NOT NULL, running INTEGER NOT NULL, pid INTEGER NOT NULL,"
      " pid_start INTEGER NOT NULL, stop_signal INTEGER NOT NULL, grace_ms INTEGER NOT NULL, data BLOB NOT NULL)"
      " WITHOUT ROWID;"));
  return database_.setUserVersion(kLiveSchema);
}

Result<Database> LiveStore::connect(const std::string& path) {
  // No sync: what a power cut would lose has ended with it.
  return Database::open(path, {.sync = Sync::Off});
}

Result<std::unique_ptr<LiveStore>> LiveStore::openWhole(const std::string& path) {
  USERPOD_TRY(database, connect(path));
  USERPOD_CHECK(database.quickCheck());
  std::unique_ptr<LiveStore> store(new LiveStore(std::move(database), path));
  USERPOD_CHECK(store->prepare());
  USERPOD_TRY(content, store->load());
  (void)content;
  return store;
}

Result<std::unique_ptr<LiveStore>> LiveStore::open(const std::string& path) {
  auto store = openWhole(path);
  if (store || !isDamage(store.error())) return store;
  logError("{}; set aside as {}.damaged: pods of the earlier daemon are not known", store.error(), path);
  USERPOD_CHECK(setAside(path));
  return openWhole(path);
}

Result<LiveStore::Content> LiveStore::load() {
  Content content;
  USERPOD_CHECK(loadTable(database_, "pods", content.pods));
  USERPOD_CHECK(loadTable(database_, "containers", content.containers));
  USERPOD_TRY(statement, database_.prepare("SELECT address, at FROM freed_addresses"));
  for (;;) {
    USERPOD_TRY(row, statement.step());
    if (!row) return content;
    content.freedAddresses[statement.text(0)] = statement.integer(1);
  }
}

Result<LiveStore::Content> LiveStore::read(const std::string& path) {
  USERPOD_TRY(database, Database::open(path, {.readOnly = true}));
  return LiveStore(std::move(database), path).load();
}

Status LiveStore::putPod(const PodRecord& pod) {
  USERPOD_TRY(statement, database_.prepare("INSERT OR REPLACE INTO pods VALUES(?1, ?2)"));
  std::string data = encode(pod);
  return statement.bind(1, pod.id).bindBlob(2, data).run();
}

Status LiveStore::removePod(const std::string& id) {
  USERPOD_TRY(statement, database_.prepare("DELETE FROM pods WHERE id = ?1"));
  return statement.bind(1, id).run();
}

Status LiveStore::putFreedAddresses(const std::vector<std::string>& addresses, std::int64_t now) {
  constexpr std::int64_t kHour = 3'600'000'000'000;
  USERPOD_TRY(old, database_.prepare("DELETE FROM freed_addresses WHERE at < ?1"));
  USERPOD_CHECK(old.bind(1, now - kHour).run());
  for (const auto& address : addresses) {
    USERPOD_TRY(statement, database_.prepare("INSERT OR REPLACE INTO freed_addresses VALUES(?1, ?2)"));
    USERPOD_CHECK(statement.bind(1, address).bind(2, now).run());
  }
  return {};
}

Status LiveStore::putContainer(const ContainerRecord& container) {
  USERPOD_TRY(statement, database_.prepare("INSERT OR REPLACE INTO containers VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"));
  std::string data = encode(container);
  return statement.bind(1, container.id)
      .bind(2, container.config.name)
      .bind(3, static_cast<std::int64_t>(running(container)))
      .bind(4, static_cast<std::int64_t>(container.pid))
      .bind(5, static_cast<std::int64_t>(container.pidStart))
      .bind(6, static_cast<std::int64_t>(container.stopSignal))
      .bind(7, static_cast<std::int64_t>(stopGrace(container.config).count()))
      .bindBlob(8, data)
      .run();
}

Status LiveStore::removeContainer(const std::string& id) {
  USERPOD_TRY(statement, database_.prepare("DELETE FROM containers WHERE id = ?1"));
  return statement.bind(1, id).run();
}

Status LiveStore::replace(const Content& content) {
  if (database_.isClosed()) {
    USERPOD_TRY(database, connect(path_));
    database_ = std::move(database);
    USERPOD_CHECK(prepare());
  }
  USERPOD_TRY(transaction, Transaction::begin(database_));
  USERPOD_CHECK(database_.execute("DELETE FROM pods; DELETE FROM containers"));
  for (const auto& pod : content.pods) USERPOD_CHECK(putPod(pod));
  for (const auto& container : content.containers) USERPOD_CHECK(putContainer(container));
  return transaction.commit();
}

Status LiveStore::rebuild(const Content& content) {
  const std::string fresh = path_ + ".new";
  auto removeJournals = [](const std::string& of) -> Status {
    for (const char* suffix : {"-wal", "-shm", "-journal"}) USERPOD_CHECK(removeTree(of + suffix));
    return {};
  };
  auto fill = [&]() -> Status {
    USERPOD_CHECK(removeJournals(fresh));
    USERPOD_CHECK(removeTree(fresh));
    USERPOD_TRY(made, openWhole(fresh));
    USERPOD_CHECK(made->replace(content));
    // All of it into the one file.
    return made->database_.execute("PRAGMA journal_mode=DELETE");
  };
  if (auto filled = fill(); !filled) {
    for (const auto& status : {removeJournals(fresh), removeTree(fresh)})
      if (!status) logWarning("{}", status.error());
    return filled;
  }
  // The journals of the old one would be taken for the new one's.
  database_.close();
  USERPOD_CHECK(removeJournals(path_));
  if (::rename(fresh.c_str(), path_.c_str()) < 0) return sysError("rename " + fresh);
  return replace(content);
}

Result<std::vector<DrainTarget>> drainTargets(const Paths& paths) {
  std::vector<DrainTarget> targets;
  if (!pathExists(paths.liveDatabase())) return targets;
  USERPOD_TRY(database, Database::open(paths.liveDatabase(), {.readOnly = true}));
  USERPOD_TRY(statement, database.prepare("SELECT id, name, pid, pid_start, stop_signal, grace_ms FROM containers"
                                          " WHERE running = 1 AND pid > 0"));
  for (;;) {
    USERPOD_TRY(row, statement.step());
    if (!row) return targets;
    targets.push_back({statement.text(0), statement.text(1), static_cast<pid_t>(statement.integer(2)),
                       static_cast<std::uint64_t>(statement.integer(3)), static_cast<int>(statement.integer(4)),
                       std::chrono::milliseconds(statement.integer(5))});
  }
}

std::chrono::milliseconds stopGrace(const ContainerConfig& config) {
  constexpr std::int64_t kDefault = 10;
  constexpr std::int64_t kLongest = 3600;
  std::int64_t seconds = kDefault;
  if (auto given = config.annotations.find("io.kubernetes.pod.terminationGracePeriod");
      given != config.annotations.end()) {
    const std::string& text = given->second;
    std::int64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size() && value >= 0) seconds = std::min(value, kLongest);
  }
  return std::chrono::seconds(seconds);
}

}  // namespace userpod::store
