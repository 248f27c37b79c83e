#include "daemon/store/sqlite.hpp"

#include <fmt/core.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "daemon/sys/fd.hpp"

namespace userpod::store {

struct Statement::Owner {
  ~Owner() {
    for (auto& [sql, handle] : idle) sqlite3_finalize(handle);
    sqlite3_close_v2(connection);
  }

  sqlite3* connection = nullptr;
  std::string path;
  std::unordered_map<std::string, sqlite3_stmt*> idle;  // prepared and not on loan
};

namespace {

Error databaseError(sqlite3* connection, const std::string& path, int code) {
  const char* text = connection != nullptr ? sqlite3_errmsg(connection) : sqlite3_errstr(code);
  int primary = code & 0xff;
  // The code that isDamage() looks for has to survive in the Error: its errno field is free for it, negated.
  int mark = primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB ? -primary : 0;
  return Error(primary == SQLITE_FULL ? Code::NoSpace : Code::StorageFailed, fmt::format("database {}: {}", path, text),
               mark);
}

}  // namespace

bool isDamage(const Error& error) {
  return error.sysErrno() == -SQLITE_CORRUPT || error.sysErrno() == -SQLITE_NOTADB;
}

Status setAside(const std::string& path) {
  for (const char* suffix : {"-wal", "-shm", "-journal", ""}) {
    std::string from = path + suffix;
    std::string to = path + ".damaged" + suffix;
    if (::rename(from.c_str(), to.c_str()) < 0 && errno != ENOENT) return sysError("set aside " + from);
  }
  return {};
}

Statement::Statement(Statement&& other) noexcept
    : owner_(other.owner_), sql_(std::move(other.sql_)), handle_(other.handle_), failed_(other.failed_) {
  other.handle_ = nullptr;
}

Statement::~Statement() {
  if (handle_ == nullptr) return;
  sqlite3_reset(handle_);
  sqlite3_clear_bindings(handle_);
  if (!owner_->idle.try_emplace(std::move(sql_), handle_).second) sqlite3_finalize(handle_);
}

Statement& Statement::remember(int code) {
  if (code != SQLITE_OK && failed_ == SQLITE_OK) failed_ = code;
  return *this;
}

Statement& Statement::bind(int parameter, std::string_view text) {
  const char* data = text.data() == nullptr ? "" : text.data();
  return remember(sqlite3_bind_text64(handle_, parameter, data, text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
}

Statement& Statement::bind(int parameter, std::int64_t value) {
  return remember(sqlite3_bind_int64(handle_, parameter, value));
}

Statement& Statement::bindBlob(int parameter, std::string_view bytes) {
  const char* data = bytes.data() == nullptr ? "" : bytes.data();
  return remember(sqlite3_bind_blob64(handle_, parameter, data, bytes.size(), SQLITE_TRANSIENT));
}

Statement& Statement::bindNull(int parameter) {
  return remember(sqlite3_bind_null(handle_, parameter));
}

Result<bool> Statement::step() {
  if (failed_ != SQLITE_OK) return databaseError(nullptr, owner_->path, failed_);
  int code = sqlite3_step(handle_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) {
    sqlite3_reset(handle_);
    return false;
  }
  return databaseError(owner_->connection, owner_->path, sqlite3_extended_errcode(owner_->connection));
}

Status Statement::run() {
  for (;;) {
    USERPOD_TRY(row, step());
    if (!row) break;
  }
  sqlite3_reset(handle_);
  return {};
}

std::string Statement::text(int column) const {
  // The text pointer first: it may convert, and the length is that of the converted value.
  const unsigned char* data = sqlite3_column_text(handle_, column);
  auto size = static_cast<std::size_t>(sqlite3_column_bytes(handle_, column));
  return data == nullptr ? std::string() : std::string(reinterpret_cast<const char*>(data), size);
}

std::string Statement::blob(int column) const {
  const void* data = sqlite3_column_blob(handle_, column);
  auto size = static_cast<std::size_t>(sqlite3_column_bytes(handle_, column));
  return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), size);
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(handle_, column);
}

bool Statement::isNull(int column) const {
  return sqlite3_column_type(handle_, column) == SQLITE_NULL;
}

Database::Database(std::unique_ptr<Statement::Owner> owner) : owner_(std::move(owner)) {}
Database::Database(Database&&) noexcept = default;
Database& Database::operator=(Database&&) noexcept = default;
Database::~Database() = default;

const std::string& Database::path() const {
  return owner_->path;
}
std::int64_t Database::lastInsertId() const {
  return sqlite3_last_insert_rowid(owner_->connection);
}
std::int64_t Database::changes() const {
  return sqlite3_changes(owner_->connection);
}

namespace {

// SQLITE_OPEN_NOFOLLOW refuses a link in any component, but a home directory is often behind one (/home -> /var/home):
// so the directory is resolved here and only the last component is left to the flag.
Result<std::string> resolveDirectory(const std::string& path) {
  auto slash = path.rfind('/');
  std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  std::string resolved(PATH_MAX, '\0');
  if (::realpath(directory.c_str(), resolved.data()) == nullptr) return sysError("find directory " + directory);
  resolved.resize(resolved.find('\0'));
  return resolved + "/" + path.substr(slash == std::string::npos ? 0 : slash + 1);
}

}  // namespace

Result<Database> Database::open(const std::string& path, const OpenOptions& options) {
  auto owner = std::make_unique<Statement::Owner>();
  owner->path = path;
  USERPOD_TRY(resolved, resolveDirectory(path));
  if (!options.readOnly) {
    // SQLite would create it with 0644 and give its journals the same mode.
    auto created = openFile(resolved, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (!created) return std::move(created).error().as(Code::StorageFailed);
  }
  int flags = SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
              (options.readOnly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE);
  int code = sqlite3_open_v2(resolved.c_str(), &owner->connection, flags, nullptr);
  if (code != SQLITE_OK) return databaseError(owner->connection, path, code);
  sqlite3_busy_timeout(owner->connection, options.busyMilliseconds);
  Database database(std::move(owner));
  // Little is read after the start: a cache of 2 MB, as by default, would only keep what was written.
  USERPOD_CHECK(database.execute("PRAGMA trusted_schema=OFF; PRAGMA foreign_keys=ON; PRAGMA cache_size=-128"));
  if (!options.readOnly) {
    // Answers the mode in force: a file system without shared memory maps keeps "delete", which is as safe.
    USERPOD_CHECK(database.execute("PRAGMA journal_mode=WAL"));
    USERPOD_CHECK(database.setSync(options.sync));
  }
  return database;
}

void Database::close() {
  owner_.reset();
}

Status Database::execute(const std::string& sql) {
  if (!owner_) return Error(Code::StorageFailed, "the database is closed");
  int code = sqlite3_exec(owner_->connection, sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return databaseError(owner_->connection, owner_->path, code);
  return {};
}

Result<Statement> Database::prepare(std::string_view sql) {
  if (!owner_) return Error(Code::StorageFailed, "the database is closed");
  std::string key(sql);
  if (auto found = owner_->idle.find(key); found != owner_->idle.end()) {
    sqlite3_stmt* handle = found->second;
    owner_->idle.erase(found);
    return Statement(owner_.get(), std::move(key), handle);
  }
  sqlite3_stmt* handle = nullptr;
  int code = sqlite3_prepare_v3(owner_->connection, key.c_str(), static_cast<int>(key.size() + 1),
                                SQLITE_PREPARE_PERSISTENT, &handle, nullptr);
  if (code != SQLITE_OK) return databaseError(owner_->connection, owner_->path, code);
  return Statement(owner_.get(), std::move(key), handle);
}

Status Database::setSync(Sync sync) {
  return execute(fmt::format("PRAGMA synchronous={}", static_cast<int>(sync)));
}

Result<std::int64_t> Database::userVersion() {
  USERPOD_TRY(statement, prepare("PRAGMA user_version"));
  USERPOD_TRY(row, statement.step());
  return row ? statement.integer(0) : 0;
}

Status Database::setUserVersion(std::int64_t version) {
  return execute(fmt::format("PRAGMA user_version={}", version));
}

Status Database::quickCheck() {
  return check("PRAGMA quick_check(1)");
}

Status Database::integrityCheck() {
  return check("PRAGMA integrity_check(1)");
}

Status Database::check(std::string_view pragma) {
  USERPOD_TRY(statement, prepare(pragma));
  USERPOD_TRY(row, statement.step());
  if (row && statement.text(0) == "ok") return {};
  return Error(Code::StorageFailed, fmt::format("database {}: {}", owner_->path, row ? statement.text(0) : "no answer"),
               -SQLITE_CORRUPT);
}

Status checkDatabase(const std::string& path, bool deep) {
  USERPOD_TRY(database, Database::open(path, {.readOnly = true}));
  return deep ? database.integrityCheck() : database.quickCheck();
}

Result<Transaction> Transaction::begin(Database& database) {
  USERPOD_CHECK(database.execute("BEGIN IMMEDIATE"));
  return Transaction(&database);
}

Transaction::~Transaction() {
  // A failure here means that SQLite has rolled back by itself.
  if (database_ != nullptr) static_cast<void>(database_->execute("ROLLBACK"));
}

Status Transaction::commit() {
  USERPOD_CHECK(database_->execute("COMMIT"));
  database_ = nullptr;
  return {};
}

}  // namespace userpod::store
