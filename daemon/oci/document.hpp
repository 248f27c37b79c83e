// Files in JSON or YAML that others write for container runtimes: CDI specifications, OCI hooks. Any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod::oci {

using Json = nlohmann::json;

inline constexpr std::size_t kDocumentLimit = 1 << 20;  // bytes of one file

// InvalidArgument says what is wrong, and where. Of YAML every value that is not null becomes a string: its type is
// what the reader wants (Fields).
Result<Json> parseDocument(std::string_view text, bool yaml);

// A regular file of at most kDocumentLimit bytes. Errors name it.
Result<std::string> readDocument(const std::string& path);

// The directories that a configured one stands for, the first of least weight: below /etc and /run the node has files
// of its own, and the machine's lie beside them. None that does not exist, and none twice.
std::vector<std::string> documentDirectories(const std::string& configured);
// Paths of the files in a directory whose names end so, by name. None without a directory.
std::vector<std::string> documentsIn(const std::string& directory, const std::vector<std::string>& endings);

// One object of a document, read member by member. The first thing wrong is kept for done(); what is read after it
// counts for nothing. The document outlives it.
class Fields {
 public:
  // `place`: how errors name the object, "" for the whole document.
  Fields(const Json& object, std::string place);

  bool has(const char* key) const;  // null is absent
  std::string text(const char* key, bool required = false);
  std::vector<std::string> texts(const char* key);
  std::optional<std::int64_t> number(const char* key);
  std::optional<bool> flag(const char* key);
  // A member that the caller takes apart: null when it is absent.
  const Json& member(const char* key);
  const std::vector<Json>& list(const char* key);
  const std::map<std::string, Json, std::less<>>& object(const char* key);
  void ignore(const char* key) { known_.insert(key); }

  std::string placeOf(std::string_view key) const;
  void wrong(std::string_view key, std::string_view why);
  void take(Status status);  // of a part: kept if it failed
  // InvalidArgument: the first thing that was wrong, or a member that nobody asked for.
  Status done();

 private:
  static std::optional<std::string> plain(const Json& value);

  const Json& object_;
  const std::string place_;
  std::set<std::string, std::less<>> known_;
  Status status_;
};

}  // namespace userpod::oci
