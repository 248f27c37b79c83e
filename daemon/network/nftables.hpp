// nftables through its library: no process is started. One thread.
#pragma once

#include <nftables/libnftables.h>

#include <cstdint>
#include <memory>
#include <string>

#include "daemon/network/address_pool.hpp"
#include "daemon/sys/error.hpp"

namespace userpod::network {

class Nftables {
 public:
  // For the network namespace of the calling thread. NotSupported when the kernel has no nftables.
  static Result<Nftables> open();
  // Commands of nft(8), carried out as one transaction: all or nothing.
  Status run(const std::string& commands);

 private:
  struct Free {
    void operator()(nft_ctx* context) const { nft_ctx_free(context); }
  };
  explicit Nftables(nft_ctx* context) : context_(context) {}
  std::unique_ptr<nft_ctx, Free> context_;
};

// What identifies a pod on the bridge.
struct Port {
  std::string link;  // the node's end of the veth
  std::uint32_t address = 0;
};
std::string macText(std::uint32_t address);  // of the pod with this address: one to one

// Table `inet userpod`: what leaves the pods' subnet takes the node's address. Safe to run again at any time: it
// replaces the rules in one transaction.
std::string natRules(const Subnet& subnet);
// Table `bridge userpod`: a port may send only from its pod's own addresses. Keeps the set's elements when run again.
std::string guardRules();
std::string guardAdd(const Port& port);
std::string guardRemove(const Port& port);  // also of a port that is not there

}  // namespace userpod::network
