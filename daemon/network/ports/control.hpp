// The daemon's side of userpod-ports: requests are answered one after the other.
#pragma once

#include <string>
#include <vector>

#include "daemon/network/ports/table.hpp"
#include "daemon/sys/fd.hpp"

namespace userpod::ports {

class Control {
 public:
  // `first` is a connection that is there already.
  static Result<Control> open(const std::string& socketPath, UniqueFd first, Table& table);
  Status run(int end);  // until that descriptor is readable

 private:
  Control(UniqueFd listener, Table& table) : listener_(std::move(listener)), table_(&table) {}
  void accept();
  bool greet(UniqueFd connection);
  bool serve(int connection);  // false: it is over
  Status answerRequest(int connection, std::string_view text);
  Status answerList(int connection);

  UniqueFd listener_;
  std::vector<UniqueFd> connections_;
  Table* table_;
};

}  // namespace userpod::ports
