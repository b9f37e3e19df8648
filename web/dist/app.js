"use strict";(()=>{document.getElementById("app").textContent="Quantra-L";})();
