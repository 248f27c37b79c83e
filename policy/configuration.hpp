// The files of userpod.toml, read as a whole: what they say, where each key was said, and everything wrong with them.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "policy/settings.hpp"

namespace userpod {

struct Problem {
  enum class Weight { Error, Warning };  // a warning keeps nobody from starting
  Weight weight = Weight::Error;
  std::string file;
  unsigned line = 0;    // 0: of the file as a whole
  unsigned column = 0;  // 0: of the line as a whole
  std::string key;      // empty: of no key
  std::string what;
  std::string mend;

  // "FILE:LINE:COLUMN: KEY: what; mend", without what is not known; of a warning "warning: " before the key.
  std::string text() const;
};

// Where a key was said last; of the default, an empty file.
struct KeyOrigin {
  std::string file;
  unsigned line = 0;
};

struct Configuration {
  Settings settings;  // of keys that are wrong, what was said before
  std::map<std::string, KeyOrigin, std::less<>> origins;
  std::vector<std::string> files;  // that were read, in this order
  std::vector<Problem> problems;   // in the order of files and lines; those of no line last

  bool valid() const;
  // The first error, and how many more there are: ConfigInvalid. Of a valid one: success.
  Status status() const;
};

// Defaults, then /etc/userpod/userpod.toml, /etc/userpod/userpod.toml.d/*.toml by name, and the same two of
// `directory`, the user's own: what is read later replaces what was read before. None of them needs to exist. Reads
// files of at most 1 MiB and nothing that is not a file.
Configuration readConfiguration(const std::string& directory, const std::string& etc = "/etc/userpod");

// Without any file; `directory` is the user's own.
Settings defaultSettings(const std::string& directory);

// What of this host the configuration does not fit: programs that are not there, directories that nobody has made. Adds
// to the problems.
void checkHost(Configuration& configuration);

// Each as a journal entry with the fields CONFIG_FILE, CONFIG_LINE and CONFIG_KEY.
void logProblems(const std::vector<Problem>& problems);

// When a changed key counts.
enum class Applies {
  Reload,  // at once, with a reload
  Daemon,  // when userpod.service starts; pods go on meanwhile
  Node,    // when userpod-node.service starts, which ends all containers
};

// What somebody may say in userpod.toml.
struct KeyInfo {
  std::string name;
  std::string type;           // "string", "whole number of seconds"...
  std::string documentation;  // a paragraph of plain text
  std::string standard;       // the default, as TOML
  Applies applies;
};
std::vector<KeyInfo> settingKeys(const std::string& directory);

// A userpod.toml that says all that the configuration says, with each key's documentation, its default and its origin.
std::string printConfiguration(const Configuration& configuration, const std::string& directory);
std::string printConfigurationJson(const Configuration& configuration, const std::string& directory);
std::string printProblemsJson(const std::vector<Problem>& problems);

// A key whose value is another now.
struct Changed {
  std::string key;
  std::string before;  // as TOML
  std::string now;
  Applies applies;
};
std::vector<Changed> changesBetween(const Settings& before, const Settings& now);
// Of `now` what counts at once, of `before` the rest.
Settings takeOver(const Settings& before, const Settings& now);
// The command with which a change counts.
std::string_view commandFor(Applies applies);

}  // namespace userpod
