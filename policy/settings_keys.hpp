// The table of keys, for those who read and print it.
#pragma once

#include <toml++/toml.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "policy/configuration.hpp"

namespace userpod {

// A key of one file while it is read: where its problems go.
class Reading {
 public:
  Reading(std::string file, std::string key, std::vector<Problem>& problems)
      : file_(std::move(file)), key_(std::move(key)), problems_(problems) {}

  void wrong(const toml::node& at, std::string what, std::string mend) const {
    add(Problem::Weight::Error, at, std::move(what), std::move(mend));
  }
  void warn(const toml::node& at, std::string what, std::string mend) const {
    add(Problem::Weight::Warning, at, std::move(what), std::move(mend));
  }
  Reading below(const std::string& key) const { return {file_, key_ + "." + key, problems_}; }

 private:
  void add(Problem::Weight weight, const toml::node& at, std::string what, std::string mend) const;

  std::string file_;
  std::string key_;
  std::vector<Problem>& problems_;
};

struct Key {
  std::string name;
  std::string type;
  Applies applies;
  std::string documentation;
  // Leaves the settings as they are where the value is wrong.
  std::function<void(const Reading&, const toml::node&, Settings&)> read;
  std::function<nlohmann::json(const Settings&)> value;
  std::function<void(const Settings& from, Settings& to)> copy;
};

// In the order in which they are printed: tables last, as TOML wants it.
const std::vector<Key>& keys();
const Key* findKey(std::string_view name);

// The known word that a wrong one was meant to be; empty: none is like it.
std::string nearest(std::string_view wrong, const std::vector<std::string>& known);

// What only several keys together can get wrong. `origins` say where.
void checkTogether(Configuration& configuration);

}  // namespace userpod
