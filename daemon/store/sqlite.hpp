// Owners of a SQLite connection and of its statements: how the two stores reach their files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/sys/error.hpp"

struct sqlite3_stmt;

namespace userpod::store {

class Database;

// A prepared statement on loan from its connection's cache: handed back, reset and unbound when it goes. It must not
// outlive its Database. A failed bind is remembered and returned by the next step().
class Statement {
 public:
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&& other) = delete;
  ~Statement();

  // Parameters count from 1. Texts and blobs are copied.
  Statement& bind(int parameter, std::string_view text);
  Statement& bind(int parameter, std::int64_t value);
  Statement& bindBlob(int parameter, std::string_view bytes);
  Statement& bindNull(int parameter);

  Result<bool> step();  // true: a row is there; false: done, and it can be bound and run again
  Status run();         // to the end, rows are dropped; the statement can be bound and run again

  // Columns of the current row count from 0. NULL reads as empty and 0.
  std::string text(int column) const;
  std::string blob(int column) const;
  std::int64_t integer(int column) const;
  bool isNull(int column) const;

 private:
  friend class Database;
  struct Owner;
  Statement(Owner* owner, std::string sql, sqlite3_stmt* handle)
      : owner_(owner), sql_(std::move(sql)), handle_(handle) {}
  Statement& remember(int code);

  Owner* owner_;
  std::string sql_;
  sqlite3_stmt* handle_;
  int failed_ = 0;  // first SQLite code of a failed bind
};

// What a commit waits for. Off: nothing (a crash of the machine may damage the file). Normal: never damaged, the last
// commits may be lost. Full: the commit is on disk.
enum class Sync { Off = 0, Normal = 1, Full = 2 };

struct OpenOptions {
  bool readOnly = false;
  Sync sync = Sync::Normal;
  int busyMilliseconds = 5000;  // how long to wait for another process's lock
};

// One connection. One thread at a time; never carried across a fork (open it in the child). Descriptors are
// close-on-exec. Errors are StorageFailed (NoSpace for a full disk) and name the file.
class Database {
 public:
  // Creates the file (mode 0600) unless readOnly; journal_mode WAL where the file system can, else the default. The
  // last component must not be a symbolic link; the directory may be reached through one.
  static Result<Database> open(const std::string& path, const OpenOptions& options = {});
  Database(Database&&) noexcept;
  Database& operator=(Database&&) noexcept;
  ~Database();

  // No statement is on loan. Removes the journals by their names: before another file takes the name. Whatever is asked
  // for afterwards is an error.
  void close();
  bool isClosed() const { return !owner_; }
  Status execute(const std::string& sql);  // any number of statements, without parameters; constant texts only
  Result<Statement> prepare(std::string_view sql);
  Status setSync(Sync sync);  // not inside a transaction: SQLite would ignore it
  Result<std::int64_t> userVersion();
  Status setUserVersion(std::int64_t version);
  std::int64_t lastInsertId() const;
  std::int64_t changes() const;  // rows of the last INSERT, UPDATE or DELETE
  const std::string& path() const;
  Status quickCheck();      // PRAGMA quick_check: an error when the file is damaged
  Status integrityCheck();  // PRAGMA integrity_check: the indexes too, in several times the time

 private:
  explicit Database(std::unique_ptr<Statement::Owner> owner);
  Status check(std::string_view pragma);
  std::unique_ptr<Statement::Owner> owner_;
};

// BEGIN IMMEDIATE ... COMMIT; destruction without commit() rolls back.
class Transaction {
 public:
  static Result<Transaction> begin(Database& database);
  Transaction(Transaction&& other) noexcept : database_(other.database_) { other.database_ = nullptr; }
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();
  Status commit();

 private:
  explicit Transaction(Database* database) : database_(database) {}
  Database* database_;
};

// Whether an error of this file says that the database is damaged or no database at all (not: locked, full, denied).
bool isDamage(const Error& error);
// Whether the file is there, a database and undamaged; `deep`: by integrityCheck(). A connection of its own that only
// reads, beside any other: any process, any thread.
Status checkDatabase(const std::string& path, bool deep);
// What to do where it says anything else of a file that is there.
inline constexpr const char* kUnreadableMend =
    "see that the file and its directory can be read and written, and that the file system is not full or read-only";
// Renames the database file and its journals to <path>.damaged*, replacing older ones.
Status setAside(const std::string& path);

}  // namespace userpod::store
