#pragma once

namespace moai::record {

// Makes torch know the device: its name, hooks, guard, generator, storages. Called once, at
// import, before register_ops.
void register_device();

}  // namespace moai::record
